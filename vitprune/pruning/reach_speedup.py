"""How far a search by predicted times has to go until the whole model, as measured, is as fast as it should be."""

from __future__ import annotations

from dataclasses import dataclass

from vitprune.core.model.vit import ViT
from vitprune.errors import PruningError
from vitprune.pruning.compact import cut
from vitprune.pruning.fold import Fold
from vitprune.pruning.measurements import SpeedMeter
from vitprune.pruning.search import Move, SpeedSearch

MAX_SEARCHES = 8
"""At most so many searches, the limit corrected after each because the model is not as fast as was predicted."""
TOLERANCE = 0.02
"""A model is fast enough, and not too fast, within this share of the target: measurements differ by as much."""
NUM_MEASUREMENTS = 2
"""A model counts as fast enough if so many measurements all say so: of many models, one is too good by chance."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A compact model, its KL on the images of the search in nats, and how it came about.

    ``trace`` has the moves that led to it, ``corrections`` says how many times the predicted time was corrected.
    """

    model: ViT
    kl: float
    trace: tuple[Move, ...]
    corrections: int


def reach_speedup(search: SpeedSearch, model: ViT, fold: Fold, target: float, meter: SpeedMeter) -> Pruned:
    """The compact model of least KL found that is measured to be ``target`` times as fast as the meter's baseline.

    It is so in each of ``NUM_MEASUREMENTS``. ``search`` was made for ``model`` with ``fold``. Raises PruningError that
    names the best speed if there is none.
    """
    best: Pruned | None = None
    fastest = 1.0

    def measure(corrections: int) -> float:
        nonlocal best, fastest
        small = cut(model, search.survivors, fold)
        speedups = [meter.speedup(small)]
        while min(speedups) >= target and len(speedups) < NUM_MEASUREMENTS:
            speedups.append(meter.speedup(small))
        slowest = min(speedups)
        fastest = max(fastest, slowest)
        if slowest >= target and (best is None or search.kl < best.kl):
            best = Pruned(model=small, kl=search.kl, trace=tuple(search.trace), corrections=corrections)
        return slowest

    limit = meter.baseline_ms() / target
    for corrections in range(MAX_SEARCHES):
        is_possible = search.reach_milliseconds(limit)
        speedup = measure(corrections)
        if target <= speedup <= (1 + TOLERANCE) * target:
            search.improve_within(limit)
            measure(corrections)
            break
        if not is_possible:
            break
        # To the middle of what is accepted, so that noise on either side does no harm.
        limit = search.milliseconds * speedup / ((1 + TOLERANCE / 2) * target)
    if best is None:
        raise PruningError(
            f"prune.target_speedup {target:g} cannot be reached on this machine at prune.timing_batch_size "
            f"{meter.protocol.batch_size}: the best model found is {fastest:.2f} times as fast as the baseline; lower "
            "prune.target_speedup"
        )
    return best
