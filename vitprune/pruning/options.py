"""The params of the section ``prune``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from vitprune.options import Options, Positive


class PruneOptions(Options):
    """How small the compact model becomes: by the circuit alone, or by latency and KL."""

    target_speedup: Annotated[float, Field(gt=1)] | None
    target_kl: Annotated[float, Field(gt=0)] | None
    group_size: Positive
    batch_size: Positive
    device: str | None
    warmup: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=5)]

    @model_validator(mode="after")
    def _one_target(self) -> PruneOptions:
        if self.target_speedup is not None and self.target_kl is not None:
            raise ValueError(
                f"prune.target_speedup ({self.target_speedup}) and prune.target_kl ({self.target_kl}) exclude each "
                "other: set one of them to null"
            )
        return self

    @property
    def has_target(self) -> bool:
        """Whether latency decides, and not the circuit alone."""
        return self.target_speedup is not None or self.target_kl is not None
