"""The base of every part of the params, and the kinds of numbers in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Resize = Literal["crop", "stretch"]
"""How an image becomes square: its middle square, or all of it."""
MixingAlpha = Annotated[float, Field(ge=0, le=100)]


class Options(BaseModel):
    """Immutable options of one component: no unknown keys, no silent conversion, no NaN.

    There are no defaults on purpose: what a run did is what its params file says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
