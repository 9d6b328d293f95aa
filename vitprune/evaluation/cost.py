"""What a model costs, counted from its shape: multiply-adds of one image, parameters."""

from __future__ import annotations

from vitprune.model.vit import ViT, ViTConfig


def multiply_adds(config: ViTConfig) -> int:
    """Multiplications with an addition that the matrix products of one image take.

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
