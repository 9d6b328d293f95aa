"""torchvision's ``VisionTransformer`` as our ViT."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from vitprune.errors import PretrainedError
from vitprune.model.vit import ViT, ViTConfig
from vitprune.pretrained.conversion import Naming, convert, refuse, strange_norms

NAMING = Naming(
    # nn.MultiheadAttention calls its first projection in_proj_weight and in_proj_bias.
    layer=re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+?)[._](weight|bias)"),
    in_layer={
        "ln_1": "attention.norm",
        "self_attention.in_proj": "attention.qkv",
        "self_attention.out_proj": "attention.out",
        "ln_2": "mlp.norm",
        "mlp.0": "mlp.hidden",
        "mlp.3": "mlp.out",
    },
    outside={"conv_proj": "patches", "encoder.ln": "norm", "heads.head": "classifier", "heads": "classifier"},
)


def from_torchvision(model: nn.Module) -> ViT:
    """Our ViT with the weights of torchvision's ``VisionTransformer``, its classifier included.

    It is a copy in float32, on the CPU and in evaluation mode, and gives the same logits. Images must be normalised as
    for ``model``.

    Raises PretrainedError that names what our ViT cannot express.
    """
    from torchvision.models import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise PretrainedError(f"it is a {type(model).__name__}, not a VisionTransformer of torchvision; choose a ViT")
    original: Any = model
    refuse(_features(original))
    first = original.encoder.layers[0]
    config = ViTConfig(
        image_size=original.image_size,
        patch_size=original.patch_size,
        in_channels=original.conv_proj.in_channels,
        num_classes=_classifier(original).out_features,
        d_model=original.hidden_dim,
        num_layers=len(original.encoder.layers),
        num_heads=first.num_heads,
        d_mlp=first.mlp[0].out_features,
        patch_embedding="conv",
    )
    weights = {name: tensor.float() for name, tensor in original.state_dict().items()}
    tokens = {"class_token": weights.pop("class_token")[0, 0], "positions": weights.pop("encoder.pos_embedding")[0]}
    return convert(original, config, NAMING.rename(weights) | tokens)


def _features(model: Any) -> Iterator[str]:
    """What torchvision's ``VisionTransformer`` has that our ViT has not."""
    if not isinstance(model.conv_proj, nn.Conv2d):
        yield "a stem of several convolutions (conv_stem_configs)"
    if model.representation_size is not None:
        yield "a classifier with a hidden layer (representation_size)"
    elif not isinstance(_classifier(model), nn.Linear):
        yield "a classifier that is no linear layer"
    yield from strange_norms(model)


def _classifier(model: Any) -> Any:
    """The linear layer, alone or in the ``nn.Sequential`` in which torchvision puts it."""
    return getattr(model.heads, "head", model.heads)
