"""What must be computed again when edges go: the receivers and nodes that change, level by level.

Legend of dimensions: d width of the stream, k width of a head or neurons of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from vitprune.circuit.engine.slots import VersionStore
from vitprune.circuit.engine.sums import SumOfSenders
from vitprune.circuit.levels import Levels


@dataclass
class Bank:
    """Receivers of one level that read equally many tokens; ``rows`` counts within the level.

    ``reads`` is missing where memory is bounded, ``projections`` where a node's receivers always change together.
    """

    level: int
    rows: list[int]
    first_row: int
    tokens: int
    reads: VersionStore | None
    projections: VersionStore | None
    item_of: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.item_of = {row: item for item, row in enumerate(self.rows)}

    def read_item(self, row: int) -> int:
        """What stands for the read of a row: equal for rows that share it."""
        return self.item_of[row] if self.reads is None else self.reads.current[self.item_of[row]]


@dataclass
class Part:
    """Receivers of a bank whose reads change: ``rows`` within the level, and those among them that stand for the rest.

    They change at the first ``tokens``. ``leader_of`` gives each row the place of its leader in ``leaders``, ``feeds``
    sums up the changed senders that each leader keeps, ``cut`` says which leaders lose edges themselves. ``weight`` and
    ``bias`` are the rows'.
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
    read_places: list[int] = field(default_factory=list)
    projection_places: list[int] = field(default_factory=list)


@dataclass
class Step:
    """Nodes of one level that change, at the first ``tokens``: ``nodes`` within the level.

    What they write differs from number ``start`` on among all changed senders, and from ``start_everywhere`` on among
    those that change at all tokens. ``out_weight (nodes, k, d)`` is the nodes'.
    """

    level: int
    tokens: int
    parts: list[Part]
    nodes: list[int]
    start: int
    start_everywhere: int
    out_weight: Tensor
    places: list[int] = field(default_factory=list)


@dataclass
class Plan:
    """What is computed again when edges into ``rows`` go, of which ``cut_rows`` reach the logits.

    ``shared`` says whether other receivers share a read with those that change.
    """

    rows: frozenset[int]
    cut_rows: frozenset[int]
    steps: list[Step]
    shared: bool


@dataclass
class _Changed:
    """Columns of the senders that change, and of those among them that change at all tokens."""

    all: list[int] = field(default_factory=list)
    everywhere: list[int] = field(default_factory=list)


def make_plan(
    levels: Levels,
    banks: list[list[Bank]],
    keep_mask: Tensor,
    is_live: Callable[[int], bool],
    everywhere: Tensor,
    rows: frozenset[int],
) -> Plan:
    """The plan for edges into ``rows`` in the circuit that ``keep_mask`` keeps.

    ``is_live`` speaks of such rows, ``everywhere (senders,)`` says which nodes matter at all tokens.
    """
    graph = levels.graph
    cut_rows = frozenset(row for row in rows if is_live(row))
    steps: list[Step] = []
    changed = _Changed()
    shared = False
    first = min((graph.receivers[row].node.level for row in cut_rows), default=graph.last_level)
    for level in range(first, graph.last_level + 1):
        rows_here = graph.level_receivers[level]
        fed = keep_mask[rows_here.start : rows_here.stop, changed.all].any(dim=1).tolist()
        affected = [
            row - rows_here.start
            for row, is_fed in zip(rows_here, fed, strict=True)
            if (is_fed or row in cut_rows) and is_live(row)
        ]
        for bank in banks[level]:
            items = {bank.read_item(row) for row in affected if row in bank.item_of}
            shared |= any(row not in affected and bank.read_item(row) in items for row in bank.rows)
        steps_here = []
        # With mean pooling, one patch can be all there is.
        for tokens in dict.fromkeys((levels.model.config.num_tokens, 1)):
            mine = [row for row in affected if _tokens_of(levels, everywhere, rows_here[row]) == tokens]
            if mine:
                steps_here.append(_make_step(levels, banks[level], mine, tokens, keep_mask, changed, cut_rows))
        for step in steps_here:
            columns = [graph.level_senders[level].start + node for node in step.nodes]
            step.start, step.start_everywhere = len(changed.all), len(changed.everywhere)
            changed.all += columns
            changed.everywhere += columns if step.tokens > 1 else []
        steps += steps_here
    return Plan(rows, cut_rows, steps, shared)


def _tokens_of(levels: Levels, everywhere: Tensor, row: int) -> int:
    """At how many of the first tokens the node that a receiver belongs to matters: all, or 1."""
    receiver = levels.graph.receivers[row]
    if receiver.node.kind == "logits":
        matters_everywhere = receiver.always_reads_all_tokens
    else:
        matters_everywhere = bool(everywhere[levels.graph.sender_index[receiver.node.name]])
    return levels.model.config.num_tokens if matters_everywhere else 1


def _make_step(
    levels: Levels,
    banks: list[Bank],
    rows: list[int],
    tokens: int,
    keep_mask: Tensor,
    changed: _Changed,
    cut_rows: frozenset[int],
) -> Step:
    graph, level = levels.graph, banks[0].level
    start = graph.level_receivers[level].start
    parts = []
    for bank in banks:
        by_tokens: dict[int, list[int]] = {}
        # Port by port, so that all queries stand in a row, and so do keys and values.
        for row in sorted(set(rows).intersection(bank.rows), key=lambda row: (graph.receivers[start + row].port, row)):
            everything = graph.receivers[start + row].always_reads_all_tokens
            by_tokens.setdefault(bank.tokens if everything else min(bank.tokens, tokens), []).append(row)
        parts += [
            _make_part(levels, bank, mine, read, keep_mask, changed, cut_rows) for read, mine in by_tokens.items()
        ]
    nodes, out_weight = _nodes(levels, level, rows)
    return Step(level, tokens, parts, nodes, 0, 0, out_weight)


def _nodes(levels: Levels, level: int, rows: list[int]) -> tuple[list[int], Tensor]:
    """The nodes that have receivers in ``rows``, and what their activations are sent to the stream with."""
    graph = levels.graph
    if level == graph.last_level:
        return [], levels.biases[level][:0]
    start = graph.level_receivers[level].start
    nodes = sorted({graph.receivers[start + row].node.index for row in rows})
    weight = levels[level].out_weight
    return nodes, weight if len(nodes) == len(weight) else weight[nodes]


def _make_part(
    levels: Levels,
    bank: Bank,
    rows: list[int],
    tokens: int,
    keep_mask: Tensor,
    changed: _Changed,
    cut_rows: frozenset[int],
) -> Part:
    leaders: dict[int, int] = {}
    leading: list[int] = []
    for row in rows:
        if bank.read_item(row) not in leaders:
            leaders[bank.read_item(row)] = len(leading)
            leading.append(row)
    leader_of = [leaders[bank.read_item(row)] for row in rows]
    if len(leading) > len(rows) / 2:
        # To bring the sums to the rows that share them would cost more than to make them again.
        leading, leader_of = rows, list(range(len(rows)))
    absolute = [bank.first_row + row for row in leading]
    weight = bias = levels.biases[bank.level]
    if bank.level < levels.graph.last_level:
        part = levels[bank.level]
        everyone = rows == list(range(len(part.in_weight)))
        weight, bias = (part.in_weight, part.in_bias) if everyone else (part.in_weight[rows], part.in_bias[rows])
    feeding = changed.all if tokens == 1 else changed.everywhere
    return Part(
        bank=bank,
        tokens=tokens,
        rows=rows,
        leaders=leading,
        leader_of=leader_of,
        feeds=SumOfSenders(keep_mask[absolute][:, feeding], weight) if feeding else None,
        cut=[place for place, row in enumerate(absolute) if row in cut_rows],
        weight=weight,
        bias=bias,
    )
