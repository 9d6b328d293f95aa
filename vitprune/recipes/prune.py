"""The recipe of the prune stage: the compact model that a circuit needs, or that meets a target of speed or KL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.metrics import kl_divergence
from vitprune.core.model import SavedModel
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.core.packed import PackedData
from vitprune.pruning.compact import removed_parts
from vitprune.pruning.cutting import CompactModel, prune_to_circuit, prune_to_target
from vitprune.pruning.measurements import Measurements
from vitprune.pruning.options import PruneOptions
from vitprune.pruning.search import SpeedProgress


@dataclass(frozen=True)
class CircuitModel:
    """A circuit, and the model it was found in: the baseline with sorted neurons."""

    circuit: Circuit
    saved: SavedModel


def prune(
    packed: PackedData,
    baseline: SavedModel,
    found: CircuitModel | None,
    options: PruneOptions,
    rounds: int,
    device: torch.device,
    *,
    known: Measurements | None = None,
    on_progress: Callable[[SpeedProgress], None] | None = None,
) -> CompactModel:
    """Prune ``baseline`` to the target of ``options``, or without one to what the circuit of ``found`` needs.

    Both models are on ``device``. Of several ``rounds`` of fine-tuning, this is for the first, which goes a part of the
    way to a target. ``known`` are the measurements of an earlier run. Raises PruningError that names the best speed if
    the target cannot be reached.
    """
    options = options.of_round(1, rounds)
    if options.has_target:
        pruned = prune_to_target(packed, baseline, options, device, known=known, on_progress=on_progress)
    else:
        assert found is not None, "without a target, the circuit decides"
        pruned = prune_to_circuit(packed, found.saved, found.circuit, options, device, known=known)
    full, dense = (
        predict(saved.model, packed.val.images, saved.preprocessing, device=device)
        for saved in (baseline, pruned.saved)
    )
    val = score(dense, packed.val.labels).as_metrics() | {"kl": kl_divergence(full, dense)}
    shapes = removed_parts(baseline.model.config, pruned.saved.model.config)
    return replace(pruned, metrics=shapes | pruned.metrics | {"val": val})
