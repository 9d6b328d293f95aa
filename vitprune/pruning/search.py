"""Pruning to a speed: heads, groups of neurons and whole sublayers are removed, and restored, by KL per millisecond.

The exact KL decides. First the units with the least KL per millisecond are removed, until the model is predicted to be
fast enough. Every removal changes what the other units are worth and how long they take: once the last attentions are
removed, for example, the MLPs behind them compute one token instead of all, and many of their neurons cost almost
nothing. So units are also restored, and the search oscillates around its limit: it removes a few units too many,
restores others, and goes on for as long as that helps (oscillating search, Somol and Pudil 2000, "Oscillating search
algorithms for feature selection"). What no oscillation tries is forced at last: a unit is removed or restored against
the greedy order, and the search repairs around it (ejection chains, Glover 1996).

A change of KL that was measured some moves ago is measured again only when its unit would be the next to move (lazy
greedy, Minoux 1978).
"""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from torch import Tensor

from vitprune.core.model.vit import ViT
from vitprune.pruning.compact import Survivors
from vitprune.pruning.fold import Fold
from vitprune.pruning.latency import LatencyTable
from vitprune.pruning.partial_model import PartialModel, Unit, sublayer_name
from vitprune.storage import atomic_file

STALE_AFTER = 0.15
"""A measured change of KL is measured again once the predicted time has changed by this share."""
OSCILLATION_WIDTHS = (-0.05, 0.05, -0.1, 0.1, -0.2, 0.2, -0.4, 0.4)
"""How far an oscillation goes below and above the limit, as shares of it; wider ones follow if narrow ones fail."""
MAX_OSCILLATIONS = 24
"""In all; each gains a little less than the one before."""
MIN_GAIN = 0.002
"""An oscillation that gains a smaller share than this is the last of its width."""

MAX_VAIN_MOVES = 16
"""So many forced moves in a row may not help."""
MAX_TRIES = 1500
"""After so many measurements no further oscillation is begun, and after as many more no further forced move."""

Action = Literal["removed", "restored"]
_Candidate = tuple[Unit, Action]


@dataclass(frozen=True, kw_only=True)
class SpeedProgress:
    """The state of a search: KLs computed so far, predicted milliseconds now and of the whole model, KL in nats."""

    tried: int
    milliseconds: float
    whole_milliseconds: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class Move:
    """A unit was removed or restored; ``kl`` in nats and predicted ``milliseconds`` are those after it."""

    unit: str
    action: Action
    kl: float
    milliseconds: float


class SpeedSearch:
    """Prunes ``model`` to a speed or a KL; ``table`` says how long its units take, ``images`` what they are worth.

    ``trace`` has the moves in order, without those of oscillations that did not help. ``batch_size`` bounds the images
    that go through the model at once.
    """

    def __init__(
        self,
        model: ViT,
        images: Tensor,
        fold: Fold,
        table: LatencyTable,
        group_size: int,
        *,
        batch_size: int | None = None,
        on_progress: Callable[[SpeedProgress], None] | None = None,
    ) -> None:
        self._model = PartialModel(model, images, fold, batch_size)
        self._table = table
        self._units = self._model.units(group_size)
        self._on_progress = on_progress
        self.milliseconds = self.whole_milliseconds = table.milliseconds(self._model.config)
        self.trace: list[Move] = []
        self._changes: dict[_Candidate, _Change] = {}
        self._moves = self._tried = 0
        self._forced: Unit | None = None

    @property
    def survivors(self) -> Survivors:
        """The heads and neurons that are left."""
        return self._model.survivors

    @property
    def kl(self) -> float:
        """KL(whole ‖ pruned) in nats, mean over the images."""
        return self._model.kl

    def reach_milliseconds(self, limit: float) -> bool:
        """Remove units until the model is predicted to take no longer than this, and restore what then fits.

        Returns False, with nothing left, if no model is so fast.
        """
        if not self._shrink_to(limit):
            return False
        self._grow_to(limit)
        return True

    def improve_within(self, limit: float) -> None:
        """Lower KL within these milliseconds, which the model is within: oscillate, then force moves."""

        def oscillate(width: float) -> None:
            if width < 0:
                self._shrink_to((1 + width) * limit)
            else:
                self._grow_to((1 + width) * limit)
                self._shrink_to(limit)
            self._grow_to(limit)

        def repair() -> None:
            self._shrink_to(limit)
            self._grow_to(limit)

        def cost() -> float:
            return self.kl if self.milliseconds <= limit else math.inf

        self._oscillate(oscillate, cost)
        self._force_moves(repair, cost)

    def reach_kl(self, limit: float) -> None:
        """Make the model as fast as the search can with KL within ``limit``, in nats."""
        self._shrink_within(limit)

        def oscillate(width: float) -> None:
            if width < 0:
                self._grow_within((1 + width) * limit)
            else:
                self._shrink_within((1 + width) * limit)
                self._grow_within(limit)
            self._shrink_within(limit)

        def repair() -> None:
            self._grow_within(limit)
            self._shrink_within(limit)

        def cost() -> float:
            return self.milliseconds if self.kl <= limit else math.inf

        self._oscillate(oscillate, cost)
        self._force_moves(repair, cost)

    def _oscillate(self, oscillate: Callable[[float], None], cost: Callable[[], float]) -> None:
        """Oscillate while that lowers the cost, with wider oscillations when it no longer does."""
        state, best = self._state(), cost()
        widths = list(OSCILLATION_WIDTHS)
        last = self._tried + MAX_TRIES
        for _ in range(MAX_OSCILLATIONS):
            if not widths or self._tried >= last:
                return
            oscillate(widths[0])
            gain = best - cost()
            if gain < MIN_GAIN * best:
                widths.pop(0)
            if gain > 0:
                state, best = self._state(), cost()
            else:
                self._return_to(state)

    def _force_moves(self, repair: Callable[[], None], cost: Callable[[], float]) -> None:
        """Force one promising move after another, repair around each, and keep what lowers the cost."""
        state, best = self._state(), cost()
        tried: set[_Candidate] = set()
        last = self._tried + MAX_TRIES
        while self._tried < last:
            candidate = next((candidate for candidate in self._promising() if candidate not in tried), None)
            if candidate is None or len(tried) == MAX_VAIN_MOVES:
                return
            tried.add(candidate)
            self._forced, action = candidate
            self._move(self._forced, action=action)
            repair()
            self._forced = None
            repair()
            if best - cost() > MIN_GAIN * best:
                state, best = self._state(), cost()
                tried.clear()
            else:
                self._return_to(state)

    def _promising(self) -> list[_Candidate]:
        """Every possible move, the most promising first.

        The time that a move saves or takes counts as much KL as it would at the price of the cheapest removal.
        """
        moves: list[tuple[_Candidate, float]] = [((unit, "removed"), -saved) for unit, saved in self._removable()]
        moves += [((unit, "restored"), taken) for unit, taken in self._restorable(math.inf)]
        for candidate, _ in moves:
            if candidate not in self._changes:
                self._measure(*candidate)
        prices = [self._changes[candidate].kl / -taken for candidate, taken in moves if taken < 0]
        price = max(min(prices, default=0.0), 0.0)
        moves.sort(key=lambda move: self._changes[move[0]].kl + price * move[1])
        return [candidate for candidate, _ in moves]

    def _state(self) -> _State:
        return _State(kept=self._model.kept, changes={**self._changes}, moves=self._moves, trace=len(self.trace))

    def _return_to(self, state: _State) -> None:
        self._model.keep(state.kept)
        self._changes, self._moves = {**state.changes}, state.moves
        self.milliseconds = self._table.milliseconds(self._model.config)
        del self.trace[state.trace :]

    def _shrink_to(self, limit: float) -> bool:
        while self.milliseconds > limit:
            if (unit := self._cheapest(self._removable(), action="removed")) is None:
                return False
            self._move(unit, action="removed")
        return True

    def _shrink_within(self, limit: float) -> None:
        while unit := self._cheapest(self._removable(), action="removed", most_kl=limit):
            self._move(unit, action="removed")

    def _grow_to(self, limit: float) -> None:
        while unit := self._cheapest(self._restorable(limit), action="restored"):
            self._move(unit, action="restored")

    def _grow_within(self, limit: float) -> None:
        while self.kl > limit:
            if (unit := self._cheapest(self._restorable(math.inf), action="restored")) is None:
                return
            self._move(unit, action="restored")

    def _removable(self) -> Iterator[tuple[Unit, float]]:
        """The units that can be removed, and the milliseconds that each saves in the long run."""
        config = self._model.config
        for index, (present, _) in enumerate(self._units_by_sublayer()):
            if not present:
                continue
            whole = _joined(present, sublayer_name(index))
            yield whole, self.milliseconds - self._table.milliseconds(self._model.config_without(whole))
            counts = config.layer_neurons if index % 2 else config.layer_heads
            width = counts[index // 2]
            is_short = index // 2 >= config.first_short_layer
            curve = self._table.curve("mlp" if index % 2 else "attention", is_short=is_short)
            for unit in present if len(present) > 1 else ():
                yield unit, curve.saving(width, len(unit.members))

    def _restorable(self, limit: float) -> Iterator[tuple[Unit, float]]:
        """The removed units that fit within these milliseconds, and how many each takes."""
        for index, (present, absent) in enumerate(self._units_by_sublayer()):
            if not absent:
                continue
            name = sublayer_name(index)
            candidates = [*absent, _joined(absent, name)] if len(absent) > 1 else absent
            if not present:
                # Most of the time of a sublayer is for having it at all, so several units are tried at once. The first
                # neurons matter most.
                widths = (2**power for power in range(1, (len(absent) - 1).bit_length()))
                candidates = [*candidates, *(_joined(absent[:width], f"{name}[:{width}]") for width in widths)]
            for unit in candidates:
                after = self._table.milliseconds(self._model.config_with(unit))
                if after <= limit:
                    yield unit, after - self.milliseconds

    def _units_by_sublayer(self) -> list[tuple[list[Unit], list[Unit]]]:
        """For each sublayer the units that are left and those that are removed."""
        kept = [set(members) for members in self._model.kept]
        units: list[tuple[list[Unit], list[Unit]]] = [([], []) for _ in kept]
        for unit in self._units:
            units[unit.sublayer][unit.members[0] not in kept[unit.sublayer]].append(unit)
        return units

    def _cheapest(
        self, candidates: Iterable[tuple[Unit, float]], *, action: Action, most_kl: float = math.inf
    ) -> Unit | None:
        """The unit to remove with the least KL per millisecond saved, or to restore with the most per millisecond."""
        restores = action == "restored"
        # Where the cost falls in stairs, removing less than a whole sublayer may save nothing.
        movable = [
            (unit, milliseconds)
            for unit, milliseconds in candidates
            if (restores or milliseconds > 0) and not self._is_forced(unit)
        ]
        for unit, _ in movable:
            known = self._changes.get((unit, action))
            if known is None or abs(self.milliseconds / known.milliseconds - 1) > STALE_AFTER:
                self._measure(unit, action)

        def entry(number: int) -> tuple[float, int]:
            unit, milliseconds = movable[number]
            return _price(self._changes[unit, action].kl, milliseconds, action), number

        queue = [entry(number) for number in range(len(movable))]
        heapq.heapify(queue)
        while queue:
            _, number = heapq.heappop(queue)
            unit, _ = movable[number]
            change = self._changes[unit, action]
            if change.moves < self._moves:
                self._measure(unit, action)
                heapq.heappush(queue, entry(number))
            elif change.kl < 0 if restores else self.kl + change.kl <= most_kl:
                return unit
        return None

    def _is_forced(self, unit: Unit) -> bool:
        """Whether to move this unit would undo some of the move that is forced."""
        forced = self._forced
        if forced is None or forced.sublayer != unit.sublayer:
            return False
        return not set(forced.members).isdisjoint(unit.members)

    def _measure(self, unit: Unit, action: Action) -> None:
        after = self._model.kl_with(unit) if action == "restored" else self._model.kl_without(unit)
        self._remember(unit, action, after - self.kl)
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

    def _remember(self, unit: Unit, action: Action, change: float) -> None:
        self._changes[unit, action] = _Change(kl=change, moves=self._moves, milliseconds=self.milliseconds)

    def _move(self, unit: Unit, *, action: Action) -> None:
        before = self.kl
        if action == "removed":
            self._model.remove(unit)
        else:
            self._model.restore(unit)
        self._count_move()
        self._remember(unit, "restored" if action == "removed" else "removed", before - self.kl)
        self.trace.append(Move(unit=unit.name, action=action, kl=self.kl, milliseconds=self.milliseconds))

    def _count_move(self) -> None:
        self._moves += 1
        self.milliseconds = self._table.milliseconds(self._model.config)


@dataclass(frozen=True)
class _Change:
    """By how much a move changes KL in nats, as measured after so many moves at so many predicted milliseconds."""

    kl: float
    moves: int
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class _State:
    """Where a search can return to: what is left, what is known of it, and how many moves led there."""

    kept: tuple[tuple[int, ...], ...]
    changes: dict[_Candidate, _Change]
    moves: int
    trace: int


def _price(change: float, milliseconds: float, action: Action) -> float:
    """What orders the moves, the lowest first: KL per millisecond.

    A removal that lowers KL gains twice, so that the more it saves, the earlier it comes. A restored unit that takes
    no time comes before all others.
    """
    if action == "removed" and change < 0:
        return change * milliseconds
    return change / max(milliseconds, 1e-9)


def _joined(units: list[Unit], name: str) -> Unit:
    """Several units of one sublayer as one; a single one stays as it is."""
    if len(units) == 1:
        return units[0]
    return Unit(units[0].sublayer, name, tuple(member for unit in units for member in unit.members))


def write_moves(path: Path, moves: Iterable[Move]) -> None:
    """Write a CSV with a row for each move, atomically."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["move", *(column.name for column in fields(Move))])
        for number, move in enumerate(moves, 1):
            writer.writerow(
                [number, *(f"{value:.6g}" if isinstance(value, float) else value for value in astuple(move))]
            )
