"""The params of the section ``evaluate``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vitprune.options import Options, Positive


class EvaluateOptions(Options):
    """Evaluation and the timing protocol."""

    batch_size: Positive
    timing_batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    timing_warmup: Annotated[int, Field(ge=1)]
    timing_rounds: Annotated[int, Field(ge=5)]
