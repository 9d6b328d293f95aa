"""Pruning to a speed: heads, neurons and whole sublayers go, and come back, by KL per millisecond.

The exact KL decides. First what costs the least KL per millisecond goes, until the model should be fast enough. What a
part is worth and what it takes both change as others go: once the last attentions are gone, for example, the MLPs
behind them compute one token instead of all, and neurons that were dear are nearly free. So parts also come back, and
the search swings: a few parts more go, others take their place, for as long as that helps (oscillating search, Somol
and Pudil 2000, "Oscillating search algorithms for feature selection").

A part whose worth was measured a while ago is measured again only when it would be the next (lazy greedy, Minoux 1978).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.model.vit import ViT
from vitprune.pruning.compact import Survivors
from vitprune.pruning.latency import LatencyTable
from vitprune.pruning.partial import PartialModel, Unit, sublayer_name

STALE_AFTER = 0.15
"""What a part was worth counts no longer once the predicted time has changed by this share."""
SWINGS = (-0.05, 0.05, -0.1, 0.1, -0.2, 0.2, -0.4, 0.4)
"""How far the search swings below its limit and above, as shares of it: farther if nearer does not help."""
MOST_SWINGS = 24
"""Together; each is worth a little less than the one before."""
LEAST_GAIN = 0.002
"""A swing that helps by a smaller share than this was the last of its width."""


@dataclass(frozen=True, kw_only=True)
class SpeedProgress:
    """How far a search is: KLs computed, predicted milliseconds and where they started, KL in nats."""

    tried: int
    milliseconds: float
    whole_milliseconds: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """A part that went, or came back; KL in nats and predicted milliseconds behind it."""

    part: str
    came_back: bool
    kl: float
    milliseconds: float


class SpeedSearch:
    """A model on its way to a speed; ``table`` says what its parts cost, ``images`` what they are worth.

    ``trace`` has the steps in the order taken, without those that were taken back.
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
        self._units = self._model.units(group_size)
        self._on_progress = on_progress
        self.milliseconds = self.whole_milliseconds = table.milliseconds(self._model.config)
        self.trace: list[Step] = []
        self._known: dict[tuple[Unit, bool], _Worth] = {}
        self._taken = self._tried = 0

    @property
    def survivors(self) -> Survivors:
        """The heads and neurons that are left."""
        return self._model.survivors

    @property
    def kl(self) -> float:
        """KL(whole ‖ pruned) in nats, mean over the images."""
        return self._model.kl

    def reach_milliseconds(self, limit: float) -> bool:
        """Take parts out until the model should take no longer than this, and put back what then fits.

        False, with nothing left, if it cannot be so fast.
        """
        if not self._shrink_to(limit):
            return False
        self._grow_to(limit)
        return True

    def swing_around(self, limit: float) -> None:
        """Swing around these milliseconds, which the model is within, for as long as that lowers KL."""

        def swing(width: float) -> None:
            if width < 0:
                self._shrink_to((1 + width) * limit)
            else:
                self._grow_to((1 + width) * limit)
                self._shrink_to(limit)
            self._grow_to(limit)

        self._swing(swing, lambda: self.kl if self.milliseconds <= limit else math.inf)

    def reach_kl(self, limit: float) -> None:
        """Make the model as fast as can be found with KL within ``limit``, in nats."""
        self._shrink_within(limit)

        def swing(width: float) -> None:
            if width < 0:
                self._grow_within((1 + width) * limit)
            else:
                self._shrink_within((1 + width) * limit)
                self._grow_within(limit)
            self._shrink_within(limit)

        self._swing(swing, lambda: self.milliseconds if self.kl <= limit else math.inf)

    def _swing(self, swing: Callable[[float], None], cost: Callable[[], float]) -> None:
        """Swing while that lowers the cost, wider when it no longer does."""
        best, marked, steps = cost(), self._model.kept, len(self.trace)
        widths = list(SWINGS)
        for _ in range(MOST_SWINGS):
            if not widths:
                return
            swing(widths[0])
            gain = best - cost()
            if gain < LEAST_GAIN * best:
                widths.pop(0)
            if gain > 0:
                best, marked, steps = cost(), self._model.kept, len(self.trace)
            else:
                self._model.keep(marked)
                self._moved()
                del self.trace[steps:]

    def _shrink_to(self, limit: float) -> bool:
        while self.milliseconds > limit:
            if (unit := self._cheapest(self._removable(), came_back=False)) is None:
                return False
            self._take(unit, came_back=False)
        return True

    def _shrink_within(self, limit: float) -> None:
        while unit := self._cheapest(self._removable(), came_back=False, most_kl=limit):
            self._take(unit, came_back=False)

    def _grow_to(self, limit: float) -> None:
        while unit := self._cheapest(self._restorable(limit), came_back=True):
            self._take(unit, came_back=True)

    def _grow_within(self, limit: float) -> None:
        while self.kl > limit:
            if (unit := self._cheapest(self._restorable(math.inf), came_back=True)) is None:
                return
            self._take(unit, came_back=True)

    def _removable(self) -> Iterator[tuple[Unit, float]]:
        """What can go, and the milliseconds that this saves in the long run."""
        config = self._model.config
        for place, (present, _) in enumerate(self._sides()):
            if not present:
                continue
            whole = _joined(present, sublayer_name(place))
            yield whole, self.milliseconds - self._table.milliseconds(self._model.config_without(whole))
            heads_or_neurons = config.layer_neurons if place % 2 else config.layer_heads
            width = heads_or_neurons[place // 2]
            is_short = place // 2 >= config.first_short_layer
            curve = self._table.curve("mlp" if place % 2 else "attention", is_short=is_short)
            for unit in present if len(present) > 1 else ():
                yield unit, curve.saving(width, len(unit.members))

    def _restorable(self, limit: float) -> Iterator[tuple[Unit, float]]:
        """What can come back within these milliseconds, and how many it takes."""
        for place, (present, absent) in enumerate(self._sides()):
            if not absent:
                continue
            name = sublayer_name(place)
            candidates = [*absent, _joined(absent, name)] if len(absent) > 1 else absent
            if not present:
                # Most of what it takes is for its being there at all: so some at once. The first neurons matter most.
                widths = (2**power for power in range(1, (len(absent) - 1).bit_length()))
                candidates = [*candidates, *(_joined(absent[:width], f"{name}[:{width}]") for width in widths)]
            for unit in candidates:
                after = self._table.milliseconds(self._model.config_with(unit))
                if after <= limit:
                    yield unit, after - self.milliseconds

    def _sides(self) -> list[tuple[list[Unit], list[Unit]]]:
        """For each sublayer the units that are there and those that are gone."""
        kept = [set(members) for members in self._model.kept]
        sides: list[tuple[list[Unit], list[Unit]]] = [([], []) for _ in kept]
        for unit in self._units:
            sides[unit.sublayer][unit.members[0] not in kept[unit.sublayer]].append(unit)
        return sides

    def _cheapest(
        self, candidates: Iterable[tuple[Unit, float]], *, came_back: bool, most_kl: float = math.inf
    ) -> Unit | None:
        """What costs the least KL per millisecond saved, or comes back with the most per millisecond taken."""
        # On a stair of the cost there may be nothing to gain but by taking the whole sublayer.
        found = [(unit, milliseconds) for unit, milliseconds in candidates if came_back or milliseconds > 0]
        for unit, _ in found:
            known = self._known.get((unit, came_back))
            if known is None or abs(self.milliseconds / known.milliseconds - 1) > STALE_AFTER:
                self._measure(unit, came_back=came_back)

        def entry(number: int) -> tuple[float, int]:
            unit, milliseconds = found[number]
            return _price(self._known[unit, came_back].change, milliseconds), number

        queue = [entry(number) for number in range(len(found))]
        heapq.heapify(queue)
        while queue:
            _, number = heapq.heappop(queue)
            unit, _ = found[number]
            worth = self._known[unit, came_back]
            if worth.taken < self._taken:
                self._measure(unit, came_back=came_back)
                heapq.heappush(queue, entry(number))
            elif worth.change < 0 if came_back else self.kl + worth.change <= most_kl:
                return unit
        return None

    def _measure(self, unit: Unit, *, came_back: bool) -> None:
        after = self._model.kl_with(unit) if came_back else self._model.kl_without(unit)
        self._know(unit, came_back=came_back, change=after - self.kl)
        self._tried += 1
        if self._on_progress:
            self._on_progress(
                SpeedProgress(
                    tried=self._tried,
                    milliseconds=self.milliseconds,
                    whole_milliseconds=self.whole_milliseconds,
                    kl=self.kl,
                )
            )

    def _know(self, unit: Unit, *, came_back: bool, change: float) -> None:
        self._known[unit, came_back] = _Worth(change=change, taken=self._taken, milliseconds=self.milliseconds)

    def _take(self, unit: Unit, *, came_back: bool) -> None:
        before = self.kl
        (self._model.restore if came_back else self._model.remove)(unit)
        self._moved()
        self._know(unit, came_back=not came_back, change=before - self.kl)
        self.trace.append(Step(part=unit.name, came_back=came_back, kl=self.kl, milliseconds=self.milliseconds))

    def _moved(self) -> None:
        self._taken += 1
        self.milliseconds = self._table.milliseconds(self._model.config)


@dataclass(frozen=True)
class _Worth:
    """By how much KL changes with a step, as it was after so many steps, at so many predicted milliseconds."""

    change: float
    taken: int
    milliseconds: float


def _price(change: float, milliseconds: float) -> float:
    """KL per millisecond, the lower, the better: of a part that goes, or that comes back and lowers KL."""
    # What comes back for nothing comes first.
    return change / max(milliseconds, 1e-9)


def _joined(units: list[Unit], name: str) -> Unit:
    """Several units of one sublayer as one; a single one stays what it is."""
    if len(units) == 1:
        return units[0]
    return Unit(units[0].sublayer, name, tuple(member for unit in units for member in unit.members))
