"""How far a search by expected costs has to go until the whole model, as measured, is as fast as it should be."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from vitprune.circuit.ablation import Ablation
from vitprune.errors import PruningError
from vitprune.model.vit import ViT
from vitprune.pruning.compact import cut
from vitprune.pruning.latency import Bench
from vitprune.pruning.speed import SpeedSearch
from vitprune.stopwatch import time_in_turn

MOST_CORRECTIONS = 8
"""So often a search goes on because the model, once measured, is not as fast as its parts made expect."""
TOLERANCE = 0.02
"""A model is fast enough, and not too fast, within this share of the target: measurements differ by as much."""


def measured_speedup(baseline: ViT, small: ViT, bench: Bench) -> float:
    """How many times as fast as ``baseline`` another model is: median of the ratios of each round."""
    config = baseline.config
    shape = (bench.batch_size, config.in_channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(bench.device)
    work = [partial(copy.deepcopy(each).eval().to(bench.device), images) for each in (baseline, small)]
    with torch.inference_mode():
        seconds = time_in_turn(work, bench.device, warmup=bench.warmup, rounds=bench.rounds)
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A compact model that was measured to be fast enough, and its KL on the search's images in nats."""

    model: ViT
    kl: float


def reach_speedup(
    search: SpeedSearch, model: ViT, ablation: Ablation, target: float, bench: Bench, *, baseline: ViT, goal: float
) -> Reached:
    """The compact model of least KL found that is measured to be ``target`` times as fast as ``baseline``.

    ``search`` is one of ``model`` and ``ablation``; its parts are first expected to take ``goal`` milliseconds then.

    Raises PruningError that names the best speed if there is none.
    """
    best: Reached | None = None
    fastest = 1.0

    def measure() -> float:
        nonlocal best, fastest
        small = cut(model, search.survivors, ablation)
        speedup = measured_speedup(baseline, small, bench)
        fastest = max(fastest, speedup)
        if speedup >= target and (best is None or search.kl < best.kl):
            best = Reached(model=small, kl=search.kl)
        return speedup

    for _ in range(MOST_CORRECTIONS):
        is_possible = search.reach_milliseconds(goal)
        speedup = measure()
        if target <= speedup <= (1 + TOLERANCE) * target:
            search.swing_around(goal)
            measure()
            break
        if not is_possible:
            break
        # The model is slower, or faster, than its parts made expect.
        goal = search.milliseconds * speedup / target
    if best is None:
        raise PruningError(
            f"prune.target_speedup {target:g} cannot be reached on this machine at prune.batch_size "
            f"{bench.batch_size}: the best model found is {fastest:.2f} times as fast as the baseline; lower "
            "prune.target_speedup"
        )
    return best
