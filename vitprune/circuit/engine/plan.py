"""What must be updated when edges are removed: the receivers and nodes that change, level by level.

Legend of dimensions: d width of the stream, k width of a head or neurons of a group, r receivers, s senders, m all
numbers that a sender writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vitprune.circuit.engine.state import Bank
from vitprune.circuit.levels import Levels

FEW_RECEIVERS = 4
SPARSE_SHARE = 0.3
"""On a CPU, sums are taken row by row for up to ``FEW_RECEIVERS`` whole rows, or for this share of all rows.

A matrix product reads every sender for every few receivers and waits for the memory: with 60 senders, m = 150,000 and a
tenth of the edges it took 2.7 ms for 2 receivers and 5.5 ms for 8; summing the rows in question took 0.1 and 0.7 ms.
"""


class SumOfSenders:
    """For each receiver the sum of what the senders write that it keeps; ``keep`` is ``(r, s)``."""

    def __init__(self, keep: Tensor, like: Tensor) -> None:
        self.senders = keep.shape[1]
        self._weight: Tensor | None = None
        most = self.senders * max(FEW_RECEIVERS, SPARSE_SHARE * len(keep))
        if like.device.type != "cpu" or keep.sum() > most:
            self._weight = keep.to(like)
            return
        rows, self._columns = keep.nonzero().unbind(dim=1)
        self._offsets = torch.searchsorted(rows.contiguous(), torch.arange(len(keep)))

    def __call__(self, written: Tensor) -> Tensor:
        """``(s, m) -> (r, m)``."""
        if self._weight is not None:
            return self._weight @ written
        return F.embedding_bag(self._columns, written, self._offsets, mode="sum")


@dataclass(frozen=True, eq=False)
class ReadUpdate:
    """Receivers of a bank whose reads change, at the first ``tokens``; ``rows`` are numbered within the level.

    Rows that keep the same senders share the read of one of them: row ``rows[i]`` that of ``leaders[leader_of[i]]``.
    ``feeds`` sums the changed senders that each leader keeps. ``cut`` are the positions of leaders that lose edges
    themselves. ``weight`` and ``bias`` project the reads of ``rows``.
    """

    bank: Bank
    tokens: int
    rows: list[int]
    leaders: list[int]
    leader_of: list[int]
    feeds: SumOfSenders | None
    cut: list[int]
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Update:
    """Nodes of one level that change, at the first ``tokens``; ``nodes`` are numbered within the level.

    Among all changed senders they are those from ``start`` on, among the senders that change at all tokens those from
    ``start_everywhere`` on. ``out_weight (nodes, k, d)`` sends their activations to the stream.
    """

    level: int
    tokens: int
    reads: list[ReadUpdate]
    nodes: list[int]
    start: int
    start_everywhere: int
    out_weight: Tensor


@dataclass(frozen=True, eq=False)
class Plan:
    """The updates for edges that are removed from ``rows``, of which ``cut_rows`` have a path to the logits.

    There are no updates if no row has. ``is_shared`` tells whether other receivers share a read with those that change.
    """

    rows: frozenset[int]
    cut_rows: frozenset[int]
    updates: list[Update]
    is_shared: bool


def make_plan(
    levels: Levels,
    banks: list[list[Bank]],
    keep_mask: Tensor,
    is_live: Callable[[int], bool],
    everywhere: Tensor,
    rows: frozenset[int],
) -> Plan:
    """The plan for edges into ``rows`` of the circuit of ``keep_mask``.

    ``is_live`` tells whether a row has a path to the logits, ``everywhere (s,)`` which nodes matter at all tokens.
    """
    planner = _Planner(levels, banks, keep_mask, is_live, everywhere, rows)
    first = min((levels.graph.receivers[row].node.level for row in planner.cut_rows), default=levels.graph.last_level)
    for level in range(first, levels.graph.last_level + 1):
        planner.plan_level(level)
    return Plan(rows, planner.cut_rows, planner.updates, planner.is_shared)


class _Planner:
    """Goes through the levels and collects their updates and the columns of the senders that change."""

    def __init__(
        self,
        levels: Levels,
        banks: list[list[Bank]],
        keep_mask: Tensor,
        is_live: Callable[[int], bool],
        everywhere: Tensor,
        rows: frozenset[int],
    ) -> None:
        self.levels, self.graph, self.banks, self.keep_mask = levels, levels.graph, banks, keep_mask
        self.is_live, self.everywhere = is_live, everywhere
        self.cut_rows = frozenset(row for row in rows if is_live(row))
        self.updates: list[Update] = []
        self.is_shared = False
        self._changed: list[int] = []
        self._changed_everywhere: list[int] = []

    def plan_level(self, level: int) -> None:
        """Add the updates of a level, given the senders of earlier levels that change."""
        rows = self.graph.level_receivers[level]
        fed = self.keep_mask[rows.start : rows.stop, self._changed].any(dim=1).tolist()
        affected = [
            row - rows.start
            for row, is_fed in zip(rows, fed, strict=True)
            if (is_fed or row in self.cut_rows) and self.is_live(row)
        ]
        for bank in self.banks[level]:
            keys = {bank.read_key(row) for row in affected if row in bank.item_of}
            self.is_shared |= any(row not in affected and bank.read_key(row) in keys for row in bank.rows)
        updates: list[Update] = []
        start, start_everywhere = len(self._changed), len(self._changed_everywhere)
        # With mean pooling there may be a single token, which is then all of them.
        for tokens in dict.fromkeys((self.levels.model.config.num_tokens, 1)):
            updated = [row for row in affected if self._tokens_of(rows[row]) == tokens]
            if updated:
                updates.append(self._update(level, updated, tokens, start, start_everywhere))
                start += len(updates[-1].nodes)
                start_everywhere += len(updates[-1].nodes) if tokens > 1 else 0
        for update in updates:
            columns = [self.graph.level_senders[level].start + node for node in update.nodes]
            self._changed += columns
            self._changed_everywhere += columns if update.tokens > 1 else []
        self.updates += updates

    def _tokens_of(self, row: int) -> int:
        """At how many of the first tokens the node of a receiver matters: all or 1."""
        receiver = self.graph.receivers[row]
        if receiver.node.kind == "logits":
            matters_everywhere = receiver.always_reads_all_tokens
        else:
            matters_everywhere = bool(self.everywhere[self.graph.sender_index[receiver.node.name]])
        return self.levels.model.config.num_tokens if matters_everywhere else 1

    def _update(self, level: int, rows: list[int], tokens: int, start: int, start_everywhere: int) -> Update:
        receivers, first_row = self.graph.receivers, self.graph.level_receivers[level].start
        reads = []
        for bank in self.banks[level]:
            by_tokens: dict[int, list[int]] = {}
            # Port by port, so that all queries are consecutive, and so are keys and values.
            for row in sorted(
                set(rows).intersection(bank.rows), key=lambda row: (receivers[first_row + row].port, row)
            ):
                reads_all = receivers[first_row + row].always_reads_all_tokens
                by_tokens.setdefault(bank.tokens if reads_all else min(bank.tokens, tokens), []).append(row)
            reads += [self._read_update(bank, updated, read) for read, updated in by_tokens.items()]
        nodes, out_weight = self._nodes(level, rows)
        return Update(level, tokens, reads, nodes, start, start_everywhere, out_weight)

    def _nodes(self, level: int, rows: list[int]) -> tuple[list[int], Tensor]:
        """The nodes that have receivers in ``rows``, and their output weights."""
        if level == self.graph.last_level:
            return [], self.levels.biases[level][:0]
        first_row = self.graph.level_receivers[level].start
        nodes = sorted({self.graph.receivers[first_row + row].node.index for row in rows})
        weight = self.levels[level].out_weight
        return nodes, weight if len(nodes) == len(weight) else weight[nodes]

    def _read_update(self, bank: Bank, rows: list[int], tokens: int) -> ReadUpdate:
        position_of: dict[int, int] = {}
        leaders: list[int] = []
        for row in rows:
            if bank.read_key(row) not in position_of:
                position_of[bank.read_key(row)] = len(leaders)
                leaders.append(row)
        leader_of = [position_of[bank.read_key(row)] for row in rows]
        if len(leaders) > len(rows) / 2:
            # Bringing the sums to the rows that share them would cost more than computing them again.
            leaders, leader_of = rows, list(range(len(rows)))
        absolute = [bank.first_row + row for row in leaders]
        weight = bias = self.levels.biases[bank.level]
        if bank.level < self.graph.last_level:
            nodes = self.levels[bank.level]
            are_all = rows == list(range(len(nodes.in_weight)))
            weight, bias = (nodes.in_weight, nodes.in_bias) if are_all else (nodes.in_weight[rows], nodes.in_bias[rows])
        feeding = self._changed if tokens == 1 else self._changed_everywhere
        return ReadUpdate(
            bank=bank,
            tokens=tokens,
            rows=rows,
            leaders=leaders,
            leader_of=leader_of,
            feeds=SumOfSenders(self.keep_mask[absolute][:, feeding], weight) if feeding else None,
            cut=[position for position, row in enumerate(absolute) if row in self.cut_rows],
            weight=weight,
            bias=bias,
        )
