"""The compact model: what the circuit needs, or what fits a target of latency or KL."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit import Ablation
from vitprune.commands.terminal import speed_progress
from vitprune.config import PruneParams
from vitprune.device import pick_device
from vitprune.errors import PruningError
from vitprune.model import ViT
from vitprune.pruning import cut
from vitprune.pruning.latency import Bench, latency_table
from vitprune.pruning.speed import SpeedSearch
from vitprune.stopwatch import time_in_turn

MOST_CORRECTIONS = 8
"""So often a search goes on because the model, once measured, is slower than its parts made expect."""


def prune_to_target(
    options: PruneParams,
    model: ViT,
    images: Tensor,
    ablation: Ablation,
    device: torch.device,
    *,
    latency: Path,
) -> tuple[ViT, dict[str, Any]]:
    """The compact model that meets the target of ``options``, and figures for the metrics.

    ``ablation`` must be one that can be folded into weights. Costs are read from the file ``latency``, if they are
    those of this machine, or measured and written there.

    Raises PruningError that names the best speed if the target cannot be reached.
    """
    bench = Bench(
        device=device if options.device is None else pick_device(options.device),
        batch_size=options.batch_size,
        warmup=options.warmup,
        rounds=options.rounds,
    )
    table = latency_table(model.config, options.group_size, bench, latency)
    with speed_progress("prune") as on_progress:
        search = SpeedSearch(model, images, ablation, table, options.group_size, on_progress=on_progress)
        if options.target_speedup is None:
            assert options.target_kl is not None
            search.reach_kl(options.target_kl)
            small, removals = cut(model, search.survivors, ablation), len(search.trace)
        else:
            small, removals = _reach_speedup(search, model, ablation, options.target_speedup, bench)
    return small, {
        "search_kl": search.trace[removals - 1].after if removals else 0.0,
        "predicted_speedup": round(search.whole_milliseconds / table.milliseconds(small.config), 3),
        "measured_speedup": round(measured_speedup(model, small, bench), 3),
        "removals": removals,
    }


def measured_speedup(model: ViT, small: ViT, bench: Bench) -> float:
    """How many times as fast as ``model`` another one is: median of the ratios of each round."""
    config = model.config
    shape = (bench.batch_size, config.in_channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(bench.device)
    work = [partial(copy.deepcopy(each).eval().to(bench.device), images) for each in (model, small)]
    with torch.inference_mode():
        seconds = time_in_turn(work, bench.device, warmup=bench.warmup, rounds=bench.rounds)
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def _reach_speedup(search: SpeedSearch, model: ViT, ablation: Ablation, target: float, bench: Bench) -> tuple[ViT, int]:
    """The largest compact model on the search's way that is as fast as it should be, measured as a whole."""

    def speedup_after(removals: int) -> float:
        return measured_speedup(model, cut(model, search.survivors_after[removals], ablation), bench)

    goal, best, too_few = search.whole_milliseconds / target, 1.0, 0
    for _ in range(MOST_CORRECTIONS):
        is_possible = search.reach_milliseconds(goal)
        enough = len(search.trace)
        speedup = speedup_after(enough)
        if speedup >= target:
            # The parts may have cost more than expected as well.
            while enough - too_few > 1:
                middle = (enough + too_few) // 2
                enough, too_few = (middle, too_few) if speedup_after(middle) >= target else (enough, middle)
            return cut(model, search.survivors_after[enough], ablation), enough
        best, too_few = max(best, speedup), enough
        if not is_possible:
            break
        goal = search.milliseconds * speedup / target
    raise PruningError(
        f"prune.target_speedup {target:g} cannot be reached on this machine at prune.batch_size {bench.batch_size}: "
        f"the best model found is {best:.2f} times as fast as the baseline; lower prune.target_speedup"
    )
