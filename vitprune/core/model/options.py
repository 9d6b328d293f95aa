"""The params of the section ``model``."""

from __future__ import annotations

import re
from typing import Any

from pydantic import model_validator

from vitprune.core.model.config import Pooling, Positions, shape_fault
from vitprune.core.model.embedding import PatchEmbedding
from vitprune.options import Options, Positive, Share


class ModelOptions(Options):
    """Shape of the Vision Transformer, and what it starts from; image size, channels and classes come from the data."""

    pretrained: str | None
    pretrained_path: str | None
    patch_size: Positive
    patch_embedding: PatchEmbedding
    positions: Positions
    pooling: Pooling
    d_model: Positive
    num_layers: Positive
    num_heads: Positive
    d_mlp: Positive
    dropout: Share
    drop_path: Share

    @model_validator(mode="after")
    def _the_sizes_fit_together(self) -> ModelOptions:
        if fault := shape_fault(self, "model."):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _pretrained_weights_have_a_name(self) -> ModelOptions:
        if self.pretrained is not None and not re.fullmatch(r"(timm|torchvision)/[\w.]+", self.pretrained):
            raise ValueError(
                "model.pretrained must be null, timm/NAME or torchvision/NAME, such as timm/vit_tiny_patch16_224, "
                f"got {self.pretrained!r}"
            )
        if self.pretrained is None and self.pretrained_path is not None:
            raise ValueError(
                f"model.pretrained is missing: with model.pretrained_path ({self.pretrained_path}) it names the model "
                "whose weights that file holds"
            )
        return self

    def shape(self) -> dict[str, Any]:
        """The arguments of ViTConfig that the params decide; image size, channels and classes come from the data."""
        return self.model_dump(exclude={"pretrained", "pretrained_path"})
