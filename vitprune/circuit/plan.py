"""What must be computed again when edges go: the receivers and nodes that change, stage by stage.

Legend of dimensions: s senders that change, d width of the stream, k width of a head or neurons of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from vitprune.circuit.stages import Stages
from vitprune.circuit.store import VersionStore


@dataclass
class Bank:
    """Receivers of one stage that read equally many tokens; ``rows`` counts within the stage.

    ``reads`` is missing where memory is bounded, ``projections`` where a node's receivers always change together.
    """

    stage: int
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
    """Receivers of a bank whose reads change: ``rows`` within the stage, and those among them that stand for the rest.

    ``leader_of`` gives each row the place of its leader in ``leaders``, ``feeds (leaders, s)`` says which changed
    senders each leader keeps, ``cut`` which leaders lose edges themselves. ``weight`` and ``bias`` are the rows'.
    """

    bank: Bank
    rows: list[int]
    leaders: list[int]
    leader_of: list[int]
    feeds: Tensor | None
    cut: list[int]
    weight: Tensor
    bias: Tensor
    read_places: list[int] = field(default_factory=list)
    projection_places: list[int] = field(default_factory=list)


@dataclass
class Step:
    """A stage whose nodes change: ``nodes`` within the stage; what they write differs from number ``start`` on.

    ``out_weight (nodes, k, d)`` is the nodes'.
    """

    stage: int
    parts: list[Part]
    nodes: list[int]
    start: int
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


def make_plan(
    stages: Stages,
    banks: list[list[Bank]],
    keep_mask: Tensor,
    is_live: Callable[[int], bool],
    rows: frozenset[int],
) -> Plan:
    """The plan for edges into ``rows`` in the circuit that ``keep_mask`` keeps; ``is_live`` speaks of such rows."""
    graph = stages.graph
    cut_rows = frozenset(row for row in rows if is_live(row))
    steps: list[Step] = []
    changed: list[int] = []
    shared = False
    first = min((graph.receivers[row].node.stage for row in cut_rows), default=graph.last_stage)
    for stage in range(first, graph.last_stage + 1):
        everyone = graph.stage_receivers[stage]
        fed = keep_mask[everyone.start : everyone.stop, changed].any(dim=1).tolist()
        affected = {
            row - everyone.start
            for row, is_fed in zip(everyone, fed, strict=True)
            if (is_fed or row in cut_rows) and is_live(row)
        }
        if not affected:
            continue
        parts = []
        for bank in banks[stage]:
            mine = [row for row in bank.rows if row in affected]
            if mine:
                parts.append(_make_part(stages, bank, mine, keep_mask, changed, cut_rows))
                items = {bank.read_item(row) for row in mine}
                shared |= any(row not in affected and bank.read_item(row) in items for row in bank.rows)
        nodes, out_weight = _nodes(stages, stage, sorted(affected))
        steps.append(Step(stage, parts, nodes, len(changed), out_weight))
        if nodes:
            changed += [graph.stage_senders[stage].start + node for node in nodes]
    return Plan(rows, cut_rows, steps, shared)


def _nodes(stages: Stages, stage: int, rows: list[int]) -> tuple[list[int], Tensor]:
    """The nodes that have receivers in ``rows``, and what their activations are sent to the stream with."""
    graph = stages.graph
    if stage == graph.last_stage:
        return [], stages.biases[stage][:0]
    start = graph.stage_receivers[stage].start
    nodes = list(dict.fromkeys(graph.receivers[start + row].node.index for row in rows))
    weight = stages[stage].out_weight
    return nodes, weight if len(nodes) == len(weight) else weight[nodes]


def _make_part(
    stages: Stages, bank: Bank, rows: list[int], keep_mask: Tensor, changed: list[int], cut_rows: frozenset[int]
) -> Part:
    leaders: dict[int, int] = {}
    leading: list[int] = []
    for row in rows:
        if bank.read_item(row) not in leaders:
            leaders[bank.read_item(row)] = len(leading)
            leading.append(row)
    absolute = [bank.first_row + row for row in leading]
    weight = bias = stages.biases[bank.stage]
    if bank.stage < stages.graph.last_stage:
        part = stages[bank.stage]
        everyone = len(rows) == len(part.in_weight)
        weight, bias = (part.in_weight, part.in_bias) if everyone else (part.in_weight[rows], part.in_bias[rows])
    return Part(
        bank=bank,
        rows=rows,
        leaders=leading,
        leader_of=[leaders[bank.read_item(row)] for row in rows],
        feeds=keep_mask[absolute][:, changed].to(weight) if changed else None,
        cut=[place for place, row in enumerate(absolute) if row in cut_rows],
        weight=weight,
        bias=bias,
    )
