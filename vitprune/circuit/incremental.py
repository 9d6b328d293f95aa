"""The KL of a circuit with one more edge removed, at the cost of what that removal changes.

Legend of dimensions:
    b  images    t  tokens    d  width of the stream    k  width of a head    r  receivers    s  senders

What every sender writes and every receiver reads is kept. Removing an edge changes its receiver's read by a known
difference; from there only nodes that are reached through kept edges and that reach the logits are computed again,
each from the difference of what feeds it. In the last layer only the class token's row is followed. The result is that
of the full masked forward pass, up to rounding; ``refresh`` takes that pass again so that rounding does not add up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import einsum
from torch import Tensor

from vitprune.circuit.graph import Graph
from vitprune.circuit.masked import run_masked
from vitprune.circuit.metrics import kl_divergence
from vitprune.circuit.stages import HeadStage, Stages
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT

Place = tuple[int, int]
"""Row and column of an edge in a mask ``(receivers, senders)``."""


@dataclass
class _Outcome:
    """What a removal that was tried changes, kept until it is accepted or forgotten."""

    places: list[Place]
    kl: float = 0.0
    reads: dict[int, Tensor] = field(default_factory=dict)
    writes: dict[int, Tensor] = field(default_factory=dict)
    projections: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)


class IncrementalEvaluator:
    """A circuit as it stands during a search: its KL, and that of each way to make it smaller.

    ``keep_mask`` is on the CPU; all activations live on the images' device. Memory is about (senders + distinct reads)
    · b·t·d numbers.
    """

    def __init__(self, model: ViT, images: Tensor, graph: Graph, keep_mask: Tensor, removed_writes: Tensor) -> None:
        self.model, self.images, self.graph = model, images, graph
        self.keep_mask = keep_mask.clone()
        self.removed_writes = removed_writes
        self.stages = Stages(model, graph)
        self._last_heads = graph.last_stage - 2
        with torch.no_grad():
            self.full_logits = model(images)
        if not torch.isfinite(self.full_logits).all():
            raise CircuitError("the model's logits are not finite on these images: check its weights and the input")
        self._buffer = torch.empty(0)
        self._outcome: _Outcome | None = None
        self.refresh()

    def refresh(self) -> None:
        """Compute the circuit as it stands from scratch."""
        logits, self._writes, reads = run_masked(
            self.model, self.images, self.graph, self.keep_mask, self.removed_writes
        )
        self.kl = kl_divergence(self.full_logits, logits)
        nodes = [receiver.node for receiver in self.graph.receivers]
        self._reads = [self._cut(node.stage, read) for node, read in zip(nodes, reads, strict=True)]
        # Queries, keys and values of a whole layer, computed when a head of it is first needed.
        self._projections: dict[tuple[int, int], Tensor] = {}
        self._live: Tensor | None = None
        self._outcome = None
        if self._buffer.shape != self._writes.shape:
            self._buffer = torch.empty_like(self._writes)

    @property
    def live(self) -> Tensor:
        """For each sender whether it has a path to the logits in the circuit as it stands, ``(senders,)``."""
        if self._live is None:
            self._live = self.graph.reach_logits(self.keep_mask)
        return self._live

    def is_live(self, row: int) -> bool:
        """Whether what a receiver reads can still change the logits."""
        node = self.graph.receivers[row].node
        return node.kind == "logits" or bool(self.live[self.graph.sender_index[node.name]])

    @torch.no_grad()
    def kl_without(self, places: list[Place]) -> float:
        """KL of the circuit if these kept edges, all out of one sender, were removed as well."""
        outcome = self._outcome = _Outcome(places)
        (column,) = {column for _, column in places}
        cut = {row for row, _ in places}
        change = self.removed_writes[column] - self._writes[column]
        keep = self.keep_mask.to(change)
        # Senders whose output differs; the differences stand in the buffer, in this order.
        self._changed: list[int] = []
        first = min(self.graph.receivers[row].node.stage for row in cut)
        for stage in range(first, self.graph.last_stage + 1):
            rows, differences = self._differences(stage, cut, change, keep)
            if not rows:
                continue
            reads = torch.stack([self._reads[row] for row in rows]) + differences
            outcome.reads.update(zip(rows, reads, strict=True))
            if stage == self.graph.last_stage:
                outcome.kl = self._kl(reads[0])
                return outcome.kl
            columns, writes = self._write(stage, rows, reads, outcome)
            for changed, written in zip(columns, writes, strict=True):
                tokens = written.shape[1]
                torch.sub(written, self._writes[changed][:, :tokens], out=self._buffer[len(self._changed)][:, :tokens])
                outcome.writes[changed] = written
                self._changed.append(changed)
        outcome.kl = self.kl
        return outcome.kl

    def accept(self) -> None:
        """Make the removal that was tried last part of the circuit."""
        outcome = self._outcome
        assert outcome is not None, "kl_without comes first"
        for row, read in outcome.reads.items():
            self._reads[row] = read
        for column, written in outcome.writes.items():
            self._writes[column][:, : written.shape[1]] = written
        for (stage, port, head), projected in outcome.projections.items():
            self._projections[stage, port][head] = projected
        self.kl = outcome.kl
        self.remove_unreachable(outcome.places)
        self._outcome = None

    def remove_unreachable(self, places: list[Place]) -> None:
        """Remove edges that cannot change the logits, without a computation."""
        for place in places:
            self.keep_mask[place] = False
        self._live = None

    def _cut(self, stage: int, x: Tensor) -> Tensor:
        """The rows of tokens that matter to the readers of a stage: after the last heads the class token's alone."""
        return x[..., :1, :] if stage > self._last_heads else x

    def _differences(self, stage: int, cut: set[int], change: Tensor, keep: Tensor) -> tuple[list[int], Tensor]:
        """Live receivers of a stage whose read changes, and the changes ``(r, b, t, d)``."""
        everyone = self.graph.stage_receivers[stage]
        count = len(self._changed)
        feeds = keep[everyone.start : everyone.stop, self._changed]
        hit = feeds.any(dim=1).tolist()
        rows = [row for row, is_hit in zip(everyone, hit, strict=True) if (is_hit or row in cut) and self.is_live(row)]
        if not rows:
            return rows, change
        change = self._cut(stage, change)
        if count:
            arriving = self._cut(stage, self._buffer[:count])
            differences = einsum(feeds[[row - everyone.start for row in rows]], arriving, "r s, s b t d -> r b t d")
            for place, row in enumerate(rows):
                if row in cut:
                    differences[place] += change
        else:
            differences = change.expand(len(rows), *change.shape)
        return rows, differences

    def _write(self, stage: int, rows: list[int], reads: Tensor, outcome: _Outcome) -> tuple[list[int], Tensor]:
        """Columns of the nodes that read ``rows``, and what they write now, ``(nodes, b, t, d)``."""
        receivers = [self.graph.receivers[row] for row in rows]
        first = self.graph.stage_senders[stage].start
        if stage in self.stages.mlps:
            groups = [receiver.node.index for receiver in receivers]
            return [first + group for group in groups], self.stages.mlps[stage].write(groups, reads)
        stage_heads = self.stages.heads[stage]
        heads = list(dict.fromkeys(receiver.node.index for receiver in receivers))
        projections = []
        for port, name in enumerate("qkv"):
            projected = self._projected(stage, port)[heads]
            mine = [place for place, receiver in enumerate(receivers) if receiver.port in (name, "")]
            if mine:
                renewed = [receivers[place].node.index for place in mine]
                x = reads if len(mine) == len(rows) else reads[mine]
                x = x[:, :, :1] if self._first_token_only(stage, port) else x
                fresh = stage_heads.project(port, renewed, x)
                projected[[heads.index(head) for head in renewed]] = fresh
                outcome.projections.update({(stage, port, h): f for h, f in zip(renewed, fresh, strict=True)})
            projections.append(projected)
        return [first + head for head in heads], stage_heads.write(heads, *projections)

    def _projected(self, stage: int, port: int) -> Tensor:
        """Queries, keys or values of all heads of a stage in the circuit as it stands, ``(h, b, t, k)``."""
        if (stage, port) not in self._projections:
            heads: HeadStage = self.stages.heads[stage]
            rows = self.graph.stage_receivers[stage]
            mine = list(rows)[port::3] if self.graph.split_qkv else list(rows)
            reads = torch.stack([self._reads[row] for row in mine])
            reads = reads[:, :, :1] if self._first_token_only(stage, port) else reads
            self._projections[stage, port] = heads.project(port, list(range(len(mine))), reads)
        return self._projections[stage, port]

    def _first_token_only(self, stage: int, port: int) -> bool:
        """Whether only the class token's row is needed: of queries (port 0) in the last layer."""
        return stage == self._last_heads and port == 0

    def _kl(self, last_read: Tensor) -> float:
        logits = self.model.classify(last_read)
        if not torch.isfinite(logits).all():
            raise CircuitError(
                "the circuit's logits are not finite on these images: check the ablation and the weights"
            )
        return kl_divergence(self.full_logits, logits)
