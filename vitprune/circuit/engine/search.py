"""The greedy walk of ACDC: candidates in a fixed order, each removed for good if that costs less than τ.

Where several candidates fit into one evaluation, the walk guesses how the next decisions will turn out, evaluates the
candidates along that path at once, and keeps the decisions up to the first that turns out otherwise: the result is that
of one candidate after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from vitprune.circuit.circuit import ALL_RECEIVERS, Action, Decision
from vitprune.circuit.engine.evaluator import IncrementalEvaluator, Place
from vitprune.circuit.engine.journal import Journal

TESTS_BETWEEN_REFRESHES = 512
"""After so many tests the circuit is computed from scratch at the start of the next layer."""

MEMORY_OF_OUTCOMES = 0.8
"""Weight of the past when the share of removals is followed, by which the next outcomes are guessed."""


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """How far a search has come: candidates decided, of how many, how many are removed, the damage, the time left."""

    decided: int
    total: int
    removed: int
    damage: float
    seconds_left: float


@dataclass(frozen=True)
class _Candidate:
    """The edges that go together: one edge, or all edges out of the node in ``column``."""

    places: list[Place]
    column: int
    receiver: str


class Search:
    """A walk over nodes or edges; its state is the evaluator's circuit and the decisions so far.

    Decisions that ``journal`` already has are taken from there.
    """

    def __init__(
        self,
        evaluator: IncrementalEvaluator,
        tau: float,
        *,
        on_progress: Callable[[SearchProgress], None] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.evaluator, self.graph, self.tau = evaluator, evaluator.graph, tau
        self.trace: list[Decision] = []
        self._testable = self.graph.all_edges
        self._on_progress = on_progress
        self._journal = journal
        self._removal_share = 1.0
        self._known = list(journal.known) if journal else []
        self._tests = 0
        self._refreshes_ahead = self._count_refreshes()

    def over_nodes(self) -> None:
        """Decide on every head and MLP, the latest first."""
        # embed stays whatever happens.
        self._start_phase([0, *(len(columns) for columns in self.graph.level_senders[1 : self.graph.last_level])])
        for level in reversed(range(1, self.graph.last_level)):
            candidates = []
            for column in reversed(self.graph.level_senders[level]):
                rows = self.evaluator.keep_mask[:, column].nonzero().flatten().tolist()
                candidates.append(_Candidate([(row, column) for row in rows], column, ALL_RECEIVERS))
            # A node without edges is gone already.
            self._walk(level, [[each for each in candidates if each.places]])

    def settle(self, *, remove: Tensor, keep: Tensor, scores: Tensor) -> None:
        """Remove and keep edges without a test, where masks ``(receivers, senders)`` say so; ``scores`` predict why."""
        before = self.evaluator.damage
        standing = self.evaluator.keep_mask
        actions: tuple[tuple[Action, Tensor], ...] = (
            ("removed-untested", remove & standing),
            ("kept-untested", keep & standing),
        )
        for action, mask in actions:
            for row, column in mask.nonzero().tolist():
                candidate = _Candidate([(row, column)], column, self.graph.receivers[row].name)
                self.trace.append(self._decision(candidate, action, before, before + float(scores[row, column])))
        self.evaluator.remove_unreachable((remove & standing).nonzero().tolist())
        self.evaluator.refresh()
        self._testable = self.graph.all_edges & ~keep

    def over_edges(self) -> None:
        """Decide on every edge that is still there, the latest receiver first."""
        mask = self.evaluator.keep_mask & self._testable
        counts = [int(mask[rows.start : rows.stop].sum()) for rows in self.graph.level_receivers]
        self._start_phase(counts)
        for level in reversed(range(1, self.graph.last_level + 1)):
            groups = []
            for row in reversed(self.graph.level_receivers[level]):
                name = self.graph.receivers[row].name
                columns = reversed((mask[row] & self.evaluator.keep_mask[row]).nonzero().flatten().tolist())
                groups.append([_Candidate([(row, column)], column, name) for column in columns])
            self._walk(level, groups)

    def _start_phase(self, counts: list[int]) -> None:
        self._decided, self._removed, self._total = 0, 0, sum(counts)
        # A candidate costs about as much as there are levels after it.
        self._level_costs = [self.graph.last_level - level + 1 for level in range(len(counts))]
        self._cost_left = float(sum(count * cost for count, cost in zip(counts, self._level_costs, strict=True)))
        self._cost_done = 0.0
        self._started = time.perf_counter()
        self._layer: int | None = None

    def _enter(self, decision_layer: int) -> None:
        """At the start of a layer, now and then, compute the circuit from scratch, so that rounding does not add up.

        What a journal knows up to the last of these points is not computed at all: a search that goes on takes the same
        steps from the same state as one that was not interrupted.
        """
        if decision_layer == self._layer:
            return
        self._layer = decision_layer
        if self._tests >= TESTS_BETWEEN_REFRESHES:
            self._tests = 0
            self._refreshes_ahead -= 1
            if self._refreshes_ahead <= 0:
                self.evaluator.refresh()

    def _count_refreshes(self) -> int:
        """How many times a search that took the known decisions computed the circuit from scratch."""
        count = tests = 0
        for _, decisions in groupby(self._known, self._layer_of):
            if tests >= TESTS_BETWEEN_REFRESHES:
                count, tests = count + 1, 0
            tests += sum(decision.action != "unreachable" for decision in decisions)
        return count

    def _layer_of(self, decision: Decision) -> int:
        if decision.receiver == ALL_RECEIVERS:
            return self.graph.senders[self.graph.sender_index[decision.sender]].layer
        return self.graph.receivers[self.graph.receiver_index[decision.receiver]].node.layer

    def _walk(self, level: int, groups: list[list[_Candidate]]) -> None:
        """Decide on the candidates of a level; those of one group may be evaluated together."""
        if any(groups):
            self._enter((level - 1) // 2)
        for group in groups:
            # Decisions on a group change what is upstream of it: who reaches the logits from here stays the same.
            live = [self._is_live(candidate) for candidate in group]
            while group:
                if self._known:
                    decided = [self._repeat(group[0], self._known.pop(0))]
                elif not live[0]:
                    decided = [self._drop(group[0])]
                else:
                    decided = self._test(self._next(group, live))
                group, live = group[len(decided) :], live[len(decided) :]
                for decision in decided:
                    self._report(level, decision)

    def _is_live(self, candidate: _Candidate) -> bool:
        """Whether a path leads from the candidate's edges to the logits."""
        if candidate.receiver == ALL_RECEIVERS:
            return bool(self.evaluator.live[candidate.column])
        return self.evaluator.is_live(candidate.places[0][0])

    def _next(self, group: list[_Candidate], live: list[bool]) -> list[_Candidate]:
        """The candidates at the head of a group that may be evaluated together: all of them live."""
        most = self.evaluator.candidates
        return (
            [each for each, is_live in zip(group[:most], live, strict=False) if is_live]
            if all(live[:most])
            else group[:1]
        )

    def _test(self, candidates: list[_Candidate]) -> list[Decision]:
        """Decide on as many candidates as the guess about their outcomes was right for, and on one more."""
        guess_removed = self._removal_share >= 0.5
        tried = [
            [place for each in candidates[: last + 1] for place in each.places]
            if guess_removed
            else candidates[last].places
            for last in range(len(candidates))
        ]
        values = self.evaluator.damage_without(tried)
        before, accepted, decided = self.evaluator.damage, None, []
        for number, (candidate, after) in enumerate(zip(candidates, values, strict=True)):
            is_removed = after - before < self.tau
            decided.append(self._decision(candidate, "removed" if is_removed else "kept", before, after))
            self._removal_share += (1 - MEMORY_OF_OUTCOMES) * (is_removed - self._removal_share)
            if is_removed:
                before, accepted = after, number
            if is_removed != guess_removed:
                break
        if accepted is not None:
            self.evaluator.accept(accepted)
        for candidate, decision in zip(candidates, decided, strict=False):
            if decision.action == "removed":
                self._drop_inputs(candidate)
        return decided

    def _drop(self, candidate: _Candidate) -> Decision:
        """Remove what no path leads from to the logits."""
        self.evaluator.remove_unreachable(candidate.places)
        self._drop_inputs(candidate)
        return self._decision(candidate, "unreachable", self.evaluator.damage, self.evaluator.damage)

    def _repeat(self, candidate: _Candidate, decision: Decision) -> Decision:
        """Take a decision from the journal; unless all is computed anew before the next test, the evaluator too."""
        if decision.action == "unreachable":
            return self._drop(candidate)
        if decision.action == "removed":
            if self._refreshes_ahead <= 0:
                self.evaluator.damage_without([candidate.places])
                self.evaluator.accept()
            else:
                self.evaluator.remove_unreachable(candidate.places)
                self.evaluator.damage = decision.after
            self._drop_inputs(candidate)
        return decision

    def _drop_inputs(self, candidate: _Candidate) -> None:
        """A removed node's own edges lead nowhere any more."""
        if candidate.receiver == ALL_RECEIVERS:
            rows = self.graph.input_rows[self.graph.senders[candidate.column].name]
            inputs = self.evaluator.keep_mask[rows.start : rows.stop].nonzero().tolist()
            self.evaluator.remove_unreachable([(rows.start + row, sender) for row, sender in inputs])

    def _decision(self, candidate: _Candidate, action: Action, before: float, after: float) -> Decision:
        sender = self.graph.senders[candidate.column].name
        return Decision(sender=sender, receiver=candidate.receiver, action=action, before=before, after=after)

    def _report(self, level: int, decision: Decision) -> None:
        self.trace.append(decision)
        if self._journal:
            self._journal.write(decision)
        self._decided += 1
        self._tests += decision.action != "unreachable"
        self._removed += decision.action != "kept"
        self._cost_done += self._level_costs[level]
        self._cost_left -= self._level_costs[level]
        if self._on_progress:
            passed = time.perf_counter() - self._started
            self._on_progress(
                SearchProgress(
                    decided=self._decided,
                    total=self._total,
                    removed=self._removed,
                    damage=self.evaluator.damage,
                    seconds_left=passed * self._cost_left / self._cost_done,
                )
            )
