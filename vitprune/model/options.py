"""The params of the section ``model``."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import model_validator

from vitprune.options import Options, Positive, Share


class ModelOptions(Options):
    """Shape of the Vision Transformer, and what it starts from; image size, channels and classes come from the data."""

    pretrained: str | None
    pretrained_path: str | None
    patch_size: Positive
    patch_embedding: Literal["linear", "conv", "shifted"]
    positions: Literal["learned", "sincos"]
    pooling: Literal["class", "mean"]
    d_model: Positive
    num_layers: Positive
    num_heads: Positive
    d_mlp: Positive
    dropout: Share
    drop_path: Share

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> ModelOptions:
        if self.d_model % self.num_heads:
            raise ValueError(f"model.d_model ({self.d_model}) is not divisible by model.num_heads ({self.num_heads})")
        return self

    @model_validator(mode="after")
    def _the_embedding_fits_the_sizes(self) -> ModelOptions:
        if self.positions == "sincos" and self.d_model % 4:
            raise ValueError(
                f"model.d_model ({self.d_model}) is not divisible by 4, as model.positions sincos need it: half of it "
                "is for rows and half for columns, each in sines and cosines"
            )
        if self.patch_embedding == "shifted" and self.patch_size == 1:
            raise ValueError(
                "model.patch_size 1 has no half to shift by: model.patch_embedding shifted needs at least 2"
            )
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
