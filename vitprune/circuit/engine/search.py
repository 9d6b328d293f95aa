"""The greedy walk of ACDC: candidates in a fixed order, each removed for good if that costs less than τ.

Where several candidates fit into one evaluation, the walk guesses the next outcomes, evaluates the candidates along
that path together, and keeps the decisions up to the first wrong guess. The result is the same as for one candidate
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitprune.circuit.circuit import ALL_RECEIVERS, Action, Decision
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.engine.journal import ForeignDecision
from vitprune.circuit.engine.known import Known
from vitprune.circuit.engine.phase import Phase, SearchProgress
from vitprune.circuit.graph import EdgeIndex
from vitprune.circuit.problem import DiscoveryOptions

GUESS_MEMORY = 0.8
"""Weight of the past in the running share of removals, from which the next outcomes are guessed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Settlement:
    """Edges to remove and to keep without a test, as masks ``(receivers, senders)``.

    ``scores (receivers, senders)`` are the predicted changes of the metric that settled them.
    """

    remove: Tensor
    keep: Tensor
    scores: Tensor


@dataclass(frozen=True)
class _Candidate:
    """Edges that are removed together: one edge, or all edges out of the node in ``column``."""

    edges: list[EdgeIndex]
    column: int
    receiver: str


class Search:
    """A walk over nodes or edges. Its state is the evaluator's circuit and ``trace``, the decisions so far.

    Decisions that are ``known`` are not tested. ``following`` are the numbers of those of the evaluator's samples that
    the search serves. Where they disagree, ``on_split`` is called with the decisions by which the smaller part goes on
    and the numbers of that part, and the search goes on without it. What a decision tells of the metric is the mean
    over the samples that agree.
    """

    def __init__(
        self,
        evaluator: IncrementalEvaluator,
        options: DiscoveryOptions,
        known: Known,
        on_progress: Callable[[SearchProgress], None] | None = None,
        on_split: Callable[[list[Decision], Tensor], None] | None = None,
    ) -> None:
        assert options.tau is not None
        assert options.direction != "both"
        self.evaluator, self.graph, self.tau = evaluator, evaluator.graph, options.tau
        self._granularity, self._direction = options.granularity, options.direction
        self._orders = None if options.order is None else torch.Generator().manual_seed(options.order)
        self.trace: list[Decision] = []
        self.following = torch.arange(len(evaluator.damage))
        self._known = known
        self._on_progress = on_progress
        self._on_split = on_split
        self._testable = self.graph.all_edges
        self._removal_share = 1.0

    def run(self, settlement: Settlement | None = None) -> None:
        """Decide on everything. A settlement is applied before the edges."""
        if self._granularity != "edge":
            self.over_nodes()
        if self._granularity != "node":
            if settlement is not None:
                self.settle(settlement)
            self.over_edges()

    def over_nodes(self) -> None:
        """Decide on every head and MLP, the latest first."""
        last_level = self.graph.last_level
        # ``embed``, the only node of level 0, always stays.
        counts = [0, *(len(columns) for columns in self.graph.level_senders[1:last_level])]
        self._phase = Phase(counts, last_level)
        for level in reversed(range(1, last_level)):
            candidates = []
            for column in self._in_order(self.graph.level_senders[level]):
                rows = self.evaluator.keep_mask[:, column].nonzero().flatten().tolist()
                candidates.append(_Candidate([(row, column) for row in rows], column, ALL_RECEIVERS))
            # A node without edges is gone already.
            self._walk(level, [[candidate for candidate in candidates if candidate.edges]], is_over_nodes=True)

    def _in_order(self, indices: Sequence[int]) -> list[int]:
        """Candidates that may be visited in any order: the latest first, or as drawn."""
        if self._orders is None:
            return list(reversed(indices))
        return [indices[place] for place in torch.randperm(len(indices), generator=self._orders).tolist()]

    def settle(self, settlement: Settlement) -> None:
        """Remove and keep edges without a test. Those it keeps are not tested later either."""
        before = float(self.evaluator.damage.mean())
        kept = self.evaluator.keep_mask
        actions: tuple[tuple[Action, Tensor], ...] = (
            ("removed-untested", settlement.remove & kept),
            ("kept-untested", settlement.keep & kept),
        )
        for action, mask in actions:
            for row, column in mask.nonzero().tolist():
                candidate = _Candidate([(row, column)], column, self.graph.receivers[row].name)
                after = before + float(settlement.scores[row, column])
                self.trace.append(self._decision(candidate, action, before, after))
        self.evaluator.remove_unreachable((settlement.remove & kept).nonzero().tolist())
        self.evaluator.refresh()
        self._testable = self.graph.all_edges & ~settlement.keep

    def over_edges(self) -> None:
        """Decide on every edge that is still there, the latest receiver first."""
        mask = self.evaluator.keep_mask & self._testable
        counts = [int(mask[rows.start : rows.stop].sum()) for rows in self.graph.level_receivers]
        self._phase = Phase(counts, self.graph.last_level)
        for level in reversed(range(1, self.graph.last_level + 1)):
            groups = []
            for row in self._in_order(self.graph.level_receivers[level]):
                name = self.graph.receivers[row].name
                columns = self._in_order((mask[row] & self.evaluator.keep_mask[row]).nonzero().flatten().tolist())
                groups.append([_Candidate([(row, column)], column, name) for column in columns])
            self._walk(level, groups, is_over_nodes=False)

    def _walk(self, level: int, groups: list[list[_Candidate]], *, is_over_nodes: bool) -> None:
        """Decide on the candidates of a level; those of one group may be evaluated together."""
        if any(groups) and self._known.needs_refresh((is_over_nodes, (level - 1) // 2)):
            self.evaluator.refresh()
        for group in groups:
            # Decisions on a group only change what is upstream of it, so its candidates stay live or not.
            live = [self._is_live(candidate) for candidate in group]
            while group:
                decisions = self._decide(group, live)
                group, live = group[len(decisions) :], live[len(decisions) :]
                for decision in decisions:
                    self._record(level, decision)

    def _decide(self, group: list[_Candidate], live: list[bool]) -> list[Decision]:
        """Decide on the first candidate of a group, and on those after it that can be evaluated with it."""
        known = self._known.next_known()
        if known is not None:
            if self._known.may_be_foreign:
                self._check_known(group[0], known, is_live=live[0])
            return [self._repeat(group[0], known)]
        if self._known.needs_refresh_now():
            self.evaluator.refresh()
        if not live[0]:
            return [self._drop(group[0])]
        most = self.evaluator.candidates
        return self._test(group[:most] if all(live[:most]) else group[:1])

    def _is_live(self, candidate: _Candidate) -> bool:
        """Whether a path leads from the candidate's edges to the logits."""
        if candidate.receiver == ALL_RECEIVERS:
            return bool(self.evaluator.live[candidate.column])
        return self.evaluator.is_live(candidate.edges[0][0])

    def _test(self, candidates: list[_Candidate]) -> list[Decision]:
        """Decide on candidates as long as the guess about their outcomes is right, and on the one after that."""
        guess_removed = self._removal_share >= 0.5
        tried = [
            [edge for candidate in candidates[: last + 1] for edge in candidate.edges]
            if guess_removed
            else candidates[last].edges
            for last in range(len(candidates))
        ]
        damages = self.evaluator.damage_without(tried)
        before, accepted = self.evaluator.damage, None
        decisions: list[Decision] = []
        for index, (candidate, after) in enumerate(zip(candidates, damages, strict=True)):
            removing = self._changes(before, after) < self.tau
            is_removed = 2 * int(removing.sum()) >= len(removing)
            agreeing = removing == is_removed
            if not agreeing.all():
                assert self._on_split is not None
                other = self._tested(candidate, before[~agreeing], after[~agreeing])
                self._on_split([*self.trace, *decisions, other], self.following[~agreeing])
            decisions.append(self._tested(candidate, before[agreeing], after[agreeing]))
            if is_removed:
                before, accepted = after, index
            if is_removed != guess_removed or not agreeing.all():
                break
        if accepted is not None:
            self.evaluator.accept(accepted)
        if not agreeing.all():
            self.following = self.following[agreeing]
            self.evaluator.keep_samples(agreeing)
        for candidate, decision in zip(candidates, decisions, strict=False):
            if decision.action == "removed":
                self._drop_inputs(candidate)
        return decisions

    def _drop(self, candidate: _Candidate) -> Decision:
        """Remove edges from which no path leads to the logits."""
        self.evaluator.remove_unreachable(candidate.edges)
        self._drop_inputs(candidate)
        damage = float(self.evaluator.damage.mean())
        return self._decision(candidate, "unreachable", damage, damage)

    def _check_known(self, candidate: _Candidate, known: Decision, *, is_live: bool) -> None:
        """Raise ForeignDecision unless a known decision is one on this candidate, and one that its figures lead to."""
        tested: Action = "removed" if known.change < self.tau else "kept"
        sender, action = self.graph.senders[candidate.column].name, tested if is_live else "unreachable"
        if (known.sender, known.receiver, known.action) != (sender, candidate.receiver, action):
            raise ForeignDecision(
                f"holds the decision {known.sender} → {known.receiver} {known.action} where this search comes to "
                f"{sender} → {candidate.receiver}"
            )

    def _repeat(self, candidate: _Candidate, decision: Decision) -> Decision:
        """Take a known decision. The evaluator follows, unless it is refreshed before the next test."""
        if decision.action == "unreachable":
            return self._drop(candidate)
        if decision.action == "removed":
            if self._known.is_ahead_of_refresh:
                self.evaluator.remove_unreachable(candidate.edges)
                self.evaluator.damage = torch.full_like(self.evaluator.damage, decision.after)
            else:
                self.evaluator.damage_without([candidate.edges])
                self.evaluator.accept()
            self._drop_inputs(candidate)
        return decision

    def _drop_inputs(self, candidate: _Candidate) -> None:
        """Remove the edges into a removed node: they lead nowhere any more."""
        if candidate.receiver == ALL_RECEIVERS:
            rows = self.graph.input_rows[self.graph.senders[candidate.column].name]
            inputs = self.evaluator.keep_mask[rows.start : rows.stop].nonzero().tolist()
            self.evaluator.remove_unreachable([(rows.start + row, sender) for row, sender in inputs])

    def _tested(self, candidate: _Candidate, before: Tensor, after: Tensor) -> Decision:
        """The decision of samples that agree, from the metric in each of them, ``(samples,)``."""
        means = float(before.mean()), float(after.mean())
        is_removed = bool(self._changes(before, after)[0] < self.tau)
        return self._decision(candidate, "removed" if is_removed else "kept", *means)

    def _changes(self, before: Tensor, after: Tensor) -> Tensor:
        """By how much taking something away raises the metric in each sample, or restoring it lowers it."""
        return after - before if self._direction == "noising" else before - after

    def _decision(self, candidate: _Candidate, action: Action, before: float, after: float) -> Decision:
        sender = self.graph.senders[candidate.column].name
        return Decision(
            sender=sender,
            receiver=candidate.receiver,
            action=action,
            before=before,
            after=after,
            direction=self._direction,
        )

    def _record(self, level: int, decision: Decision) -> None:
        self.trace.append(decision)
        self._known.record(decision)
        self._phase.count(level, decision)
        if decision.action != "unreachable":
            self._removal_share += (1 - GUESS_MEMORY) * ((decision.action == "removed") - self._removal_share)
        if self._on_progress:
            self._on_progress(self._phase.progress(float(self.evaluator.damage.mean())))
