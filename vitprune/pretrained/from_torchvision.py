"""Find ViTs of torchvision by name, and convert them to ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from vitprune.core.model.vit import ViT, ViTConfig
from vitprune.errors import PretrainedError
from vitprune.pretrained.conversion import (
    NUM_CLASSES,
    ForeignModel,
    Naming,
    check_known,
    convert,
    refuse,
    unsupported_norms,
)

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


def find_in_torchvision(name: str) -> ForeignModel:
    """The model called NAME or NAME.TAG in torchvision. Raises PretrainedError if it has no such model."""
    from torchvision import models

    weights_of = {known: models.get_model_weights(known) for known in models.list_models(include="vit_*")}
    tagged = [f"{known}.{weights.name}" for known, all_weights in weights_of.items() for weights in all_weights]
    check_known(name, [*weights_of, *tagged], "torchvision")
    architecture, _, tag = name.partition(".")
    weights = weights_of[architecture][tag or "DEFAULT"]
    model: Any = models.get_model(architecture, image_size=weights.meta["min_size"][0], num_classes=NUM_CLASSES)
    # torchvision initialises the classifier with zeros, and models whose logits are all zero cannot be compared.
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    transforms = weights.transforms()
    return ForeignModel(
        model=model,
        convert=from_torchvision,
        classifier="heads.head",
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        download=lambda: weights.get_state_dict(progress=False, check_hash=True),
    )


def from_torchvision(model: nn.Module) -> ViT:
    """Convert a ``VisionTransformer`` of torchvision, including its classifier, to a ViT with the same logits.

    The ViT is a copy in float32, on the CPU and in evaluation mode. Images must be normalised as for ``model``.
    Raises PretrainedError that names the features that our ViT does not support.
    """
    from torchvision.models import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise PretrainedError(f"it is a {type(model).__name__}, not a VisionTransformer of torchvision; choose a ViT")
    original: Any = model
    refuse(_unsupported(original))
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


def _unsupported(model: Any) -> Iterator[str]:
    """Name the features of torchvision's ``VisionTransformer`` that our ViT does not have."""
    if not isinstance(model.conv_proj, nn.Conv2d):
        yield "a stem of several convolutions (conv_stem_configs)"
    if model.representation_size is not None:
        yield "a classifier with a hidden layer (representation_size)"
    elif not isinstance(_classifier(model), nn.Linear):
        yield "a classifier that is not a linear layer"
    yield from unsupported_norms(model)


def _classifier(model: Any) -> Any:
    """The linear layer, alone or inside torchvision's ``nn.Sequential``."""
    return getattr(model.heads, "head", model.heads)
