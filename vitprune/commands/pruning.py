"""The compact model of the params: what fits a target of latency or KL, before fine-tuning and between its rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitprune.circuit import Ablation
from vitprune.commands.terminal import speed_progress
from vitprune.device import pick_device
from vitprune.model import ViT
from vitprune.pruning import cut
from vitprune.pruning.latency import Bench, latency_table
from vitprune.pruning.options import PruneOptions
from vitprune.pruning.speed import SpeedSearch
from vitprune.pruning.target import measured_speedup, reach_speedup


def prune_to_target(
    options: PruneOptions,
    model: ViT,
    images: Tensor,
    ablation: Ablation,
    device: torch.device,
    *,
    latency: Path,
    baseline: ViT | None = None,
) -> tuple[ViT, dict[str, Any]]:
    """The compact model that meets the target of ``options``, and figures for the metrics.

    ``ablation`` must be one that can be folded into weights. Costs are read from the file ``latency``, if they are
    those of this machine, or measured and written there. If ``model`` is pruned already, ``baseline`` is what it was
    before: a speed-up is counted from there.

    Raises PruningError that names the best speed if the target cannot be reached.
    """
    bench = Bench(
        device=device if options.device is None else pick_device(options.device),
        batch_size=options.batch_size,
        warmup=options.warmup,
        rounds=options.rounds,
    )
    baseline = baseline or model
    table = latency_table(baseline.config, options.group_size, bench, latency)
    milliseconds = table.milliseconds(baseline.config)
    with speed_progress("prune") as on_progress:
        search = SpeedSearch(model, images, ablation, table, options.group_size, on_progress=on_progress)
        if options.target_speedup is None:
            assert options.target_kl is not None
            search.reach_kl(options.target_kl)
            small, distance = cut(model, search.survivors, ablation), search.kl
        else:
            target, goal = options.target_speedup, milliseconds / options.target_speedup
            reached = reach_speedup(search, model, ablation, target, bench, baseline=baseline, goal=goal)
            small, distance = reached.model, reached.kl
    return small, {
        "search_kl": distance,
        "predicted_speedup": round(milliseconds / table.milliseconds(small.config), 3),
        "measured_speedup": round(measured_speedup(baseline, small, bench), 3),
    }
