"""The learning rate of every step: a linear warm-up, then half a cosine down to almost zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitprune.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Learning rate as a function of the step; both lengths are in steps and the warm-up's need not be whole.

    With warm-up W and length T, step t (from 0) has the factor min((t + 1)/W, 1) while t < W, and after that
    (1 + cos(π·(t − W)/(T − W)))/2: the cosine annealing without restarts of Loshchilov & Hutter 2017, arXiv 1608.03983.
    The first step already learns, and the last one still does, a little.

    Raises ConfigError if the warm-up does not end before the training does.
    """

    peak: float
    warmup_steps: float
    total_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ConfigError(
                f"warmup_epochs must be at least 0 and less than epochs, got a warm-up of {self.warmup_steps:g} "
                f"of {self.total_steps} steps; lower warmup_epochs"
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * min((step + 1) / self.warmup_steps, 1.0)
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.peak * (1 + math.cos(math.pi * progress)) / 2
