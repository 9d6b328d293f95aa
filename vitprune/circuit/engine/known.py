"""The decisions that a search takes over without a test, and when it computes its circuit from scratch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vitprune.circuit.circuit import Decision

TESTS_BETWEEN_REFRESHES = 512
"""After so many tests the circuit is computed from scratch at the start of the next layer."""

Position = tuple[bool, int]
"""Whether a search is deciding on nodes, and the layer where it is."""


class RefreshSchedule:
    """When a search computes its circuit from scratch, so that rounding errors do not add up."""

    def __init__(self) -> None:
        self._position: Position | None = None
        self._tests = 0

    def is_due(self, position: Position) -> bool:
        """Whether a refresh is due before the next decision, which is at ``position``."""
        if position == self._position:
            return False
        self._position = position
        if self._tests < TESTS_BETWEEN_REFRESHES:
            return False
        self._tests = 0
        return True

    def count(self, decision: Decision) -> None:
        """Take note of a decision."""
        self._tests += decision.action != "unreachable"


class Known(ABC):
    """The decisions that a search takes over without a test, and when it computes its circuit from scratch.

    Those that ``may_be_foreign`` are checked by their figures.
    """

    may_be_foreign: bool

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self._decisions = decisions
        self._next = 0
        self._schedule = RefreshSchedule()

    def next_known(self) -> Decision | None:
        """The next decision to take over, or None if all of them have been taken over."""
        if self._next == len(self._decisions):
            return None
        self._next += 1
        return self._decisions[self._next - 1]

    @abstractmethod
    def record(self, decision: Decision) -> None:
        """Take note of a decision, known or new."""

    @property
    @abstractmethod
    def is_ahead_of_refresh(self) -> bool:
        """Whether a refresh comes before the first new decision, so that known ones need no computation until then."""

    @abstractmethod
    def needs_refresh(self, position: Position) -> bool:
        """Whether the circuit must be computed from scratch before the next decision, which is at ``position``."""

    @abstractmethod
    def needs_refresh_now(self) -> bool:
        """Whether it must be before the first new decision, wherever that is."""


class Prefix(Known):
    """Decisions with which a search begins. None is computed; the circuit that they lead to is, once.

    They come from a search of this run. Their figures are means over other samples, which rounding may put on the other
    side of τ.
    """

    may_be_foreign = False

    def __init__(self, decisions: Sequence[Decision] = ()) -> None:
        super().__init__(decisions)
        self._is_refreshed = not decisions

    @property
    def is_ahead_of_refresh(self) -> bool:
        """True for all of them."""
        return not self._is_refreshed

    def record(self, decision: Decision) -> None:
        """Count the tests since the circuit was computed from scratch."""
        if self._is_refreshed:
            self._schedule.count(decision)

    def needs_refresh(self, position: Position) -> bool:
        """Whether a refresh is due, after the first."""
        return self._schedule.is_due(position) and self._is_refreshed

    def needs_refresh_now(self) -> bool:
        """True once, after the last of them."""
        needs, self._is_refreshed = not self._is_refreshed, True
        return needs
