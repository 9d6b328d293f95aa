"""What a model consists of and what it costs, against the same model before pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitprune.core.model.checkpoint import CONFIG, WEIGHTS, SavedModel
from vitprune.core.model.score import Score
from vitprune.core.model.vit import ViT, ViTConfig
from vitprune.evaluation.table import Table


def multiply_adds(config: ViTConfig) -> int:
    """Multiply-adds of the matrix products for one image.

    Counted analytically, because tools that trace a model miss fused attention. Norms, activations, softmax and sums
    are left out, as is usual.
    """
    tokens, width = config.num_tokens, config.d_model
    total = config.num_patches * config.patch_values * width
    for layer, (heads, neurons) in enumerate(zip(config.layer_heads, config.layer_neurons, strict=True)):
        written = 1 if layer >= config.first_short_layer else tokens
        gathered = heads * config.d_head
        total += (written + 2 * tokens) * width * gathered  # queries; keys and values
        total += 2 * written * tokens * gathered  # attention scores, and the sums they weight
        total += written * gathered * width  # output projection
        total += 2 * written * width * neurons  # both layers of the MLP
    return total + width * config.num_classes


def num_parameters(model: ViT) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_bytes(folder: Path) -> int:
    """Bytes of a model on disk: its weights and its config."""
    return sum((folder / name).stat().st_size for name in (WEIGHTS, CONFIG))


def model_metrics(saved: SavedModel, size: int, test_score: Score) -> dict[str, float]:
    """Scores on the test images, and what the model costs in arithmetic and on disk, ``size`` bytes."""
    return test_score.as_metrics() | {
        "parameters": num_parameters(saved.model),
        "multiply_adds": multiply_adds(saved.model.config),
        "bytes": size,
    }


def summarise(saved: SavedModel, folder: Path) -> dict[str, Any]:
    """The figures of ``summary_table`` as plain numbers, for the model in ``folder``."""
    config = saved.model.config
    return {
        "layers": [
            {"heads": heads, "neurons": neurons}
            for heads, neurons in zip(config.layer_heads, config.layer_neurons, strict=True)
        ],
        "heads_before": config.num_heads,
        "neurons_before": config.d_mlp,
        "d_model": config.d_model,
        "tokens": config.num_tokens,
        "image": [config.in_channels, config.image_size, config.image_size],
        "patch_size": config.patch_size,
        "classes": len(saved.class_names),
        "parameters": num_parameters(saved.model),
        "multiply_adds": multiply_adds(config),
        "multiply_adds_before": multiply_adds(config.unpruned),
        "bytes": model_bytes(folder),
    }


def summary_table(summary: dict[str, Any]) -> Table:
    """A row for each layer and one for their sum. The caption has the figures of the model as a whole."""
    heads, neurons = summary["heads_before"], summary["neurons_before"]
    rows = [
        (str(number), f"{layer['heads']} of {heads}", f"{layer['neurons']} of {neurons}")
        for number, layer in enumerate(summary["layers"])
    ]
    count = len(summary["layers"])
    all_heads, all_neurons = (sum(layer[kind] for layer in summary["layers"]) for kind in ("heads", "neurons"))
    rows.append(("all", f"{all_heads} of {heads * count}", f"{all_neurons} of {neurons * count}"))
    channels, height, width = summary["image"]
    share = summary["multiply_adds"] / summary["multiply_adds_before"]
    caption = (
        f"{height}×{width} images with {channels} channel{'s' if channels > 1 else ''} in patches of "
        f"{summary['patch_size']}×{summary['patch_size']}, {summary['tokens']} tokens of width {summary['d_model']}, "
        f"{summary['classes']} classes. {summary['parameters']:,} parameters, {summary['bytes'] / 1e6:.2f} MB; "
        f"{summary['multiply_adds'] / 1e6:.2f} M multiply-adds, {100 * share:.0f} % of the unpruned model's."
    )
    return Table(headers=("layer", "heads", "neurons"), rows=tuple(rows), caption=caption)
