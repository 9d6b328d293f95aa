"""What a model consists of, layer by layer, against the model as it was before pruning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitprune.evaluation.cost import multiply_adds, num_parameters
from vitprune.evaluation.table import Table
from vitprune.model.checkpoint import SavedModel


def anatomy(saved: SavedModel, size: int) -> dict[str, Any]:
    """The figures of ``anatomy_table`` as plain numbers; ``size`` is that of the model's folder in bytes."""
    config = saved.model.config
    whole = replace(config, heads_per_layer=None, neurons_per_layer=None, token_biases=False)
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
        "multiply_adds_before": multiply_adds(whole),
        "bytes": size,
    }


def anatomy_table(found: dict[str, Any]) -> Table:
    """A row for each layer and one for all, and in the caption what belongs to no layer."""
    heads, neurons = found["heads_before"], found["neurons_before"]
    rows = [
        (str(number), f"{layer['heads']} of {heads}", f"{layer['neurons']} of {neurons}")
        for number, layer in enumerate(found["layers"])
    ]
    count = len(found["layers"])
    all_heads, all_neurons = (sum(layer[kind] for layer in found["layers"]) for kind in ("heads", "neurons"))
    rows.append(("all", f"{all_heads} of {heads * count}", f"{all_neurons} of {neurons * count}"))
    channels, height, width = found["image"]
    share = found["multiply_adds"] / found["multiply_adds_before"]
    caption = (
        f"{height}×{width} images with {channels} channel{'s' if channels > 1 else ''} in patches of "
        f"{found['patch_size']}×{found['patch_size']}, {found['tokens']} tokens of width {found['d_model']}, "
        f"{found['classes']} classes. {found['parameters']:,} parameters, {found['bytes'] / 1e6:.2f} MB; "
        f"{found['multiply_adds'] / 1e6:.2f} M multiply-adds, {100 * share:.0f} % of those of the whole model."
    )
    return Table(headers=("layer", "heads", "neurons"), rows=tuple(rows), caption=caption)
