"""The params of the section ``prune``."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from vitprune.core.compute.device import DeviceName
from vitprune.core.compute.stopwatch import TimingProtocol
from vitprune.options import Options, Positive, Seed

FoldName = Literal["mean", "affine", "refit"]


class PruneOptions(Options):
    """How small the compact model becomes: what the circuit needs, or what a target of speed or KL allows."""

    target_speedup: Annotated[float, Field(gt=1)] | None
    target_kl: Annotated[float, Field(gt=0)] | None
    group_size: Positive
    fold: FoldName
    num_images: Positive
    num_fold_images: Positive
    batch_size: Positive | None
    seed: Seed
    timing_device: DeviceName | None
    timing_batch_size: Positive
    timing_warmup: Annotated[int, Field(ge=1)]
    timing_rounds: Annotated[int, Field(ge=5)]

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
        """Whether a speed or a KL decides what is cut, and not the circuit."""
        return self.target_speedup is not None or self.target_kl is not None

    def protocol(self, device: torch.device) -> TimingProtocol:
        """How models are timed on ``device``."""
        return TimingProtocol(
            device=device, batch_size=self.timing_batch_size, warmup=self.timing_warmup, rounds=self.timing_rounds
        )

    def of_round(self, number: int, rounds: int) -> PruneOptions:
        """The options before round ``number`` of fine-tuning: each of ``rounds`` speeds up by the same factor."""
        if self.target_speedup is None:
            return self
        return self.model_copy(update={"target_speedup": self.target_speedup ** (number / rounds)})
