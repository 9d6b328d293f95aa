"""How far a search has come, and how long it will take."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vitprune.circuit.circuit import Decision


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """How far a search has come in its current phase, the mean metric so far, and the expected time left."""

    decided: int
    total: int
    removed: int
    damage: float
    seconds_left: float


class Phase:
    """How far the walk over all nodes, or over all edges, has come."""

    def __init__(self, level_counts: list[int], last_level: int) -> None:
        self._decided, self._removed, self._total = 0, 0, sum(level_counts)
        # The cost of a test grows with the number of levels after the candidate.
        self._level_costs = [last_level - level + 1 for level in range(len(level_counts))]
        self._cost_left = float(sum(count * cost for count, cost in zip(level_counts, self._level_costs, strict=True)))
        self._cost_done = 0.0
        self._started = time.perf_counter()

    def count(self, level: int, decision: Decision) -> None:
        """Take note of a decision on a candidate of a level."""
        self._decided += 1
        self._removed += decision.action != "kept"
        self._cost_done += self._level_costs[level]
        self._cost_left -= self._level_costs[level]

    def progress(self, damage: float) -> SearchProgress:
        """How far the phase has come; ``damage`` is the mean metric by now."""
        passed = time.perf_counter() - self._started
        return SearchProgress(
            decided=self._decided,
            total=self._total,
            removed=self._removed,
            damage=damage,
            seconds_left=passed * self._cost_left / self._cost_done,
        )
