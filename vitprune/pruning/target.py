"""How far a search by expected costs has to go until the whole model, as measured, is as fast as it should be."""

from __future__ import annotations

import copy
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
"""So often a search goes on because the model, once measured, is slower than its parts made expect."""


def measured_speedup(baseline: ViT, small: ViT, bench: Bench) -> float:
    """How many times as fast as ``baseline`` another model is: median of the ratios of each round."""
    config = baseline.config
    shape = (bench.batch_size, config.in_channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(bench.device)
    work = [partial(copy.deepcopy(each).eval().to(bench.device), images) for each in (baseline, small)]
    with torch.inference_mode():
        seconds = time_in_turn(work, bench.device, warmup=bench.warmup, rounds=bench.rounds)
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def reach_speedup(
    search: SpeedSearch, model: ViT, ablation: Ablation, target: float, bench: Bench, *, baseline: ViT, goal: float
) -> tuple[ViT, int]:
    """The largest compact model on the search's way that is ``target`` times as fast as ``baseline``, and its removals.

    ``search`` is one of ``model`` and ``ablation``; its parts are first expected to take ``goal`` milliseconds then.

    Raises PruningError that names the best speed if there is none.
    """

    def after(removals: int) -> ViT:
        return cut(model, search.survivors_after[removals], ablation)

    best, too_few = 1.0, -1
    for _ in range(MOST_CORRECTIONS):
        is_possible = search.reach_milliseconds(goal)
        enough = len(search.trace)
        speedup = measured_speedup(baseline, after(enough), bench)
        if speedup >= target:
            # The parts may have cost more than expected as well.
            while enough - too_few > 1:
                middle = (enough + too_few) // 2
                is_enough = measured_speedup(baseline, after(middle), bench) >= target
                enough, too_few = (middle, too_few) if is_enough else (enough, middle)
            return after(enough), enough
        best, too_few = max(best, speedup), enough
        if not is_possible:
            break
        goal = search.milliseconds * speedup / target
    raise PruningError(
        f"prune.target_speedup {target:g} cannot be reached on this machine at prune.batch_size {bench.batch_size}: "
        f"the best model found is {best:.2f} times as fast as the baseline; lower prune.target_speedup"
    )
