"""Pruning to a speed: heads, neurons and whole sublayers go in the order of KL per millisecond.

The exact KL decides, and what a part is worth is measured again as others go. A part that was worth little is tried
first (lazy greedy, Minoux 1978): its KL is measured anew, and it goes if it still comes before what others were worth
when they were last measured. Now and then all are measured again, since some get cheaper.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.circuit import ALL_RECEIVERS, Decision
from vitprune.model.vit import ViT
from vitprune.pruning.compact import Survivors
from vitprune.pruning.latency import LatencyTable
from vitprune.pruning.partial import PartialModel, Unit

REFRESH_AFTER = 0.15
"""All parts are measured again when the predicted time has fallen by this share since the last time."""


@dataclass(frozen=True, kw_only=True)
class SpeedProgress:
    """How far a search is: parts removed, predicted milliseconds and where they started, KL in nats."""

    removed: int
    milliseconds: float
    whole_milliseconds: float
    kl: float


class SpeedSearch:
    """A model on its way to a speed; ``table`` says what its parts cost, ``images`` what they are worth.

    ``trace`` has the removals in the order taken, ``survivors_after`` what was left after so many of them.
    """

    def __init__(
        self,
        model: ViT,
        images: Tensor,
        ablation: Ablation,
        table: LatencyTable,
        group_size: int,
        *,
        on_progress: Callable[[SpeedProgress], None] | None = None,
    ) -> None:
        self._model = PartialModel(model, images, ablation)
        self._table = table
        self._group_size = group_size
        self._units = {unit.name: unit for unit in self._model.units(group_size)}
        self._on_progress = on_progress
        self.whole_milliseconds = self.milliseconds
        self.trace: list[Decision] = []
        self.survivors_after = [self._model.survivors]
        self._queue: list[tuple[float, str]] = []
        self._measured: dict[str, _Worth] = {}
        self._refreshed_at, self._refreshed_step = math.inf, -1

    @property
    def survivors(self) -> Survivors:
        """The heads and neurons that are left."""
        return self.survivors_after[-1]

    @property
    def kl(self) -> float:
        """KL(whole ‖ pruned) in nats, mean over the images."""
        return self._model.kl

    @property
    def milliseconds(self) -> float:
        """What the model that is left should take."""
        return self._table.milliseconds(self._model.config)

    def reach_milliseconds(self, limit: float) -> bool:
        """Take parts out until the model should take no longer than this; False if nothing is left before it does."""
        while self.milliseconds > limit:
            if (unit := self._best(math.inf)) is None:
                return False
            self._remove(unit)
        return True

    def reach_kl(self, limit: float) -> None:
        """Take out all parts without which KL stays within ``limit``, in nats."""
        while (unit := self._best(limit)) is not None:
            self._remove(unit)

    def _best(self, limit: float) -> Unit | None:
        """The part that costs the least KL per millisecond, of those without which KL stays within ``limit``."""
        if self.milliseconds <= (1 - REFRESH_AFTER) * self._refreshed_at:
            self._measure_all()
        while True:
            while self._queue:
                _, name = heapq.heappop(self._queue)
                if name not in self._units:
                    continue
                worth = self._measured[name]
                if worth.step < len(self.trace):
                    self._measure(name)
                elif worth.kl <= limit:
                    return self._units[name]
            if self._refreshed_step == len(self.trace):
                return None
            # What was too dear before may have got cheaper.
            self._measure_all()

    def _measure_all(self) -> None:
        self._refreshed_at, self._refreshed_step = self.milliseconds, len(self.trace)
        self._queue.clear()
        for name in self._units:
            self._measure(name)

    def _measure(self, name: str) -> None:
        unit = self._units[name]
        saved = self._saving(unit)
        # On a stair of the cost there may be nothing to gain but by taking the whole sublayer.
        if saved > 0:
            after = self._model.kl_without(unit)
            change = after - self._model.kl
            self._measured[name] = _Worth(step=len(self.trace), kl=after)
            heapq.heappush(self._queue, (change / saved if change > 0 else change * saved, name))

    def _saving(self, unit: Unit) -> float:
        """Milliseconds that a part costs, in the long run."""
        config = self._model.config
        heads_or_neurons = config.layer_neurons if unit.sublayer % 2 else config.layer_heads
        layer, width = unit.sublayer // 2, heads_or_neurons[unit.sublayer // 2]
        if len(unit.members) == width:
            return self.milliseconds - self._table.milliseconds(self._model.config_without(unit))
        kind = "mlp" if unit.sublayer % 2 else "attention"
        curve = self._table.curve(kind, is_short=layer >= config.first_short_layer)
        return curve.saving(width, len(unit.members))

    def _remove(self, unit: Unit) -> None:
        before = self._model.kl
        self._model.remove(unit)
        self.trace.append(
            Decision(sender=unit.name, receiver=ALL_RECEIVERS, action="removed", before=before, after=self._model.kl)
        )
        self.survivors_after.append(self._model.survivors)
        gone = set(unit.members)
        self._units = {
            name: other
            for name, other in self._units.items()
            if other.sublayer != unit.sublayer or gone.isdisjoint(other.members)
        }
        whole = self._model.whole(unit.sublayer)
        if whole.members:
            self._units[whole.name] = whole
            self._measure(whole.name)
        if self._on_progress:
            self._on_progress(
                SpeedProgress(
                    removed=len(self.trace),
                    milliseconds=self.milliseconds,
                    whole_milliseconds=self.whole_milliseconds,
                    kl=self.kl,
                )
            )


@dataclass(frozen=True)
class _Worth:
    """KL without a part, as it was when so many had been removed."""

    step: int
    kl: float
