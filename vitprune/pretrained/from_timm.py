"""Find ViTs of timm by name, and convert them to ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitprune.core.model.vit import ViT, ViTConfig
from vitprune.errors import PretrainedError
from vitprune.pretrained.conversion import (
    NUM_CLASSES,
    ForeignModel,
    Naming,
    check_known,
    convert,
    is_gelu,
    refuse,
    unsupported_norms,
)

NAMING = Naming(
    layer=re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)"),
    in_layer={
        "norm1": "attention.norm",
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.out",
        "norm2": "mlp.norm",
        "mlp.fc1": "mlp.hidden",
        "mlp.fc2": "mlp.out",
    },
    outside={"patch_embed.proj": "patches", "norm": "norm", "head": "classifier"},
)
POOLING = {"avg": "average pooling", "max": "maximum pooling", "map": "attention pooling", "": "no pooling"}


def find_in_timm(name: str) -> ForeignModel:
    """The model called NAME or NAME.TAG in timm. Raises PretrainedError if timm, or such a model, is missing."""
    timm = _import_timm()
    check_known(name, [*timm.list_models(), *timm.list_models(include_tags=True)], "timm")
    model: Any = timm.create_model(name, num_classes=NUM_CLASSES)

    def download() -> Mapping[str, Tensor]:
        if not timm.is_model_pretrained(name):
            raise PretrainedError("timm has no weights for it; set model.pretrained_path to a file that holds some")
        return timm.create_model(name, pretrained=True, num_classes=NUM_CLASSES).state_dict()

    return ForeignModel(
        model=model,
        convert=from_timm,
        classifier="head",
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
        download=download,
    )


def _import_timm() -> Any:
    """Import timm; PretrainedError says how to install it."""
    try:
        # Imported late, because it is optional and slow to import.
        import timm
    except ImportError:
        raise PretrainedError(
            "it needs timm, which is not installed; install it with: pip install 'timm>=1.0'"
        ) from None
    return timm


def from_timm(model: nn.Module) -> ViT:
    """Convert a ``VisionTransformer`` of timm, including its classifier, to a ViT with the same logits.

    The ViT is a copy in float32, on the CPU and in evaluation mode. Images must be normalised as for ``model``. Layer
    scale is merged into the output projections, and a class token without a position gets one of zeros.
    Raises PretrainedError that names the features that our ViT does not support.
    """
    if not isinstance(model, _import_timm().models.VisionTransformer):
        raise PretrainedError(f"it is a {type(model).__name__}, not a VisionTransformer of timm; choose a ViT")
    # Typed as Any, because timm's attributes differ between releases.
    original: Any = model
    refuse(_unsupported(original))
    config = ViTConfig(
        image_size=original.patch_embed.img_size[0],
        patch_size=original.patch_embed.patch_size[0],
        in_channels=original.patch_embed.proj.in_channels,
        num_classes=original.head.out_features,
        d_model=original.embed_dim,
        num_layers=len(original.blocks),
        num_heads=original.blocks[0].attn.num_heads,
        d_mlp=original.blocks[0].mlp.fc1.out_features,
        patch_embedding="conv",
    )
    weights = {name: tensor.float() for name, tensor in original.state_dict().items()}
    class_token, positions = weights.pop("cls_token")[0, 0], weights.pop("pos_embed")[0]
    if original.no_embed_class:
        positions = torch.cat([positions.new_zeros(1, config.d_model), positions])
    tokens = {"class_token": class_token, "positions": positions}
    return convert(original, config, NAMING.rename(_without_layer_scale(weights)) | tokens)


def _without_layer_scale(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge layer scale (Touvron et al. 2021, arXiv 2103.17239) into the projections before it."""
    scaled = dict(weights)
    for name in weights:
        for scale, projection in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2")):
            if name.endswith(scale):
                gamma, before = scaled.pop(name), name.replace(scale, projection)
                scaled[f"{before}.weight"] = gamma[:, None] * weights[f"{before}.weight"]
                if f"{before}.bias" in weights:
                    scaled[f"{before}.bias"] = gamma * weights[f"{before}.bias"]
    return scaled


def _unsupported(model: Any) -> Iterator[str]:
    """Name the features of a timm ``VisionTransformer`` that our ViT does not have."""
    if hasattr(model, "dist_token"):
        yield "a distillation token"
    if model.cls_token is None:
        yield "a model without class token"
    if model.reg_token is not None:
        yield "register tokens"
    if model.global_pool != "token":
        yield POOLING.get(model.global_pool, f"{model.global_pool} pooling")
    if model.pos_embed is None:
        yield "a model without learned positions"
    if not isinstance(model.norm_pre, nn.Identity):
        yield "a norm before the first layer (pre_norm)"
    if not isinstance(model.fc_norm, nn.Identity):
        yield "a norm after pooling (fc_norm)"
    elif not isinstance(model.norm, nn.LayerNorm):
        yield "a model without final layer norm"
    if not isinstance(model.head, nn.Linear):
        yield "a model without classifier (num_classes=0)"
    yield from _unsupported_patches(model.patch_embed)
    for block in model.blocks:
        yield from _unsupported_in_layer(block)
    yield from unsupported_norms(model)


def _unsupported_patches(patches: Any) -> Iterator[str]:
    projection = getattr(patches, "proj", None)
    if not isinstance(projection, nn.Conv2d) or not projection.kernel_size == projection.stride == patches.patch_size:
        yield f"a patch embedding that is not a plain convolution ({type(patches).__name__})"
        return
    if not isinstance(patches.norm, nn.Identity):
        yield "a norm of the patches"
    if len(set(patches.patch_size)) > 1 or len(set(patches.img_size)) > 1:
        yield "images or patches that are not square"


def _unsupported_in_layer(block: Any) -> Iterator[str]:
    from timm.models.vision_transformer import Attention, Block, Mlp

    if not isinstance(block, Block):
        yield f"layers of type {type(block).__name__}"
        return
    if not (isinstance(block.norm1, nn.LayerNorm) and isinstance(block.norm2, nn.LayerNorm)):
        yield f"{type(block.norm1).__name__} instead of layer norms"
    if not isinstance(block.attn, Attention):
        yield f"attention of type {type(block.attn).__name__}"
    elif not isinstance(block.attn.q_norm, nn.Identity):
        yield "norms of queries and keys (qk_norm)"
    if not isinstance(block.mlp, Mlp):
        yield f"MLPs of type {type(block.mlp).__name__}"
    elif not is_gelu(block.mlp.act):
        yield f"{type(block.mlp.act).__name__} activations"
