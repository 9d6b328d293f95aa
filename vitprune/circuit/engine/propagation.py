"""The arithmetic of an update: what candidates change is carried from level to level, up to what the logits read.

Legend of dimensions:
    b  images of a batch    n  candidates evaluated together    t  tokens    d  width of the stream
    r  receivers            s  senders that change              k  width of a head, or neurons of a group
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitprune.circuit.engine.plan import Plan, ReadUpdate, Update
from vitprune.circuit.engine.slots import VersionStore
from vitprune.circuit.engine.state import State
from vitprune.circuit.graph import EdgeIndex
from vitprune.circuit.levels import HeadLevel, project
from vitprune.circuit.masked import read_streams


@dataclass(frozen=True)
class _Slots:
    """Where an update writes new versions; ``reads`` and ``projections`` are those of each of its read updates.

    Versions of one item for all candidates are consecutive.
    """

    reads: list[list[int]]
    projections: list[list[int]]
    activations: list[int]


class Propagation:
    """One evaluation of candidates, each a list of edges to remove, by a plan that has updates.

    New versions are written to free slots of the state; ``accept`` makes those of one candidate current.
    """

    def __init__(self, state: State, plan: Plan, keep_mask: Tensor, candidates: list[list[EdgeIndex]]) -> None:
        self._state, self._plan, self._keep_mask = state, plan, keep_mask
        self._levels, self._graph = state.levels, state.graph
        self._count = len(candidates)
        self._columns = sorted({column for edges in candidates for _, column in edges})
        self._cut_weights = {row: self._cut_weights_of(row, candidates) for row in plan.cut_rows}
        for store in state.stores:
            store.release()
        self._slots = [self._take_slots(update) for update in plan.updates]

    def _cut_weights_of(self, row: int, candidates: list[list[EdgeIndex]]) -> Tensor:
        """For each candidate which of the removed senders it cuts off from a receiver, ``(n, columns)``."""
        weights = [[float((row, column) in edges) for column in self._columns] for edges in map(set, candidates)]
        return torch.tensor(weights).to(self._levels.biases[0])

    def _take_slots(self, update: Update) -> _Slots:
        def take(store: VersionStore | None, items: list[int]) -> list[int]:
            return [] if store is None else store.take(len(items) * self._count)

        return _Slots(
            reads=[take(read.bank.reads, read.leaders) for read in update.reads],
            projections=[take(read.bank.projections, read.rows) for read in update.reads],
            activations=take(self._state.activations.get(update.level), update.nodes),
        )

    def accept(self, choice: int) -> None:
        """Make the versions of one candidate current."""
        count = self._count
        for update, slots in zip(self._plan.updates, self._slots, strict=True):
            for read, read_slots, projection_slots in zip(update.reads, slots.reads, slots.projections, strict=True):
                bank = read.bank
                for position, row in enumerate(read.rows):
                    item = bank.item_of[row]
                    if bank.reads is not None:
                        bank.reads.current[item] = read_slots[read.leader_of[position] * count + choice]
                    if bank.projections is not None:
                        bank.projections.current[item] = projection_slots[position * count + choice]
            if slots.activations:
                current = self._state.activations[update.level].current
                first_column = self._graph.level_senders[update.level].start
                for position, node in enumerate(update.nodes):
                    current[node] = slots.activations[position * count + choice]
                    self._state.forget_removal_change(first_column + node)

    def last_reads(self, batch: int) -> Tensor:
        """What the logits read without each candidate's edges, on a batch of images, ``(n, b, t, d)``."""
        cut_changes: dict[int, Tensor] = {}
        writes = None if self._state.keeps_reads else self._state.all_writes(batch)
        for update, slots in zip(self._plan.updates, self._slots, strict=True):
            projected = []
            for read, read_slots, projection_slots in zip(update.reads, slots.reads, slots.projections, strict=True):
                if read.cut and read.tokens not in cut_changes:
                    cut_changes[read.tokens] = self._cut_changes(batch, read.tokens)
                reads = self._new_reads(batch, read, read_slots, writes)
                if read.cut:
                    self._add_cuts(reads, read, cut_changes[read.tokens])
                shape = self._state.read_shape(batch, read.tokens)
                if read.bank.reads is not None:
                    read.bank.reads.put(batch, read_slots, reads.view(-1, *shape))
                if update.level == self._graph.last_level:
                    return reads[0].unflatten(0, (self._count, -1))
                projected.append(self._project(read, reads))
                if read.bank.projections is not None:
                    values = projected[-1].view(-1, *shape[:2], projected[-1].shape[-1])
                    read.bank.projections.put(batch, projection_slots, values)
            self._send(batch, update, slots, self._activate(batch, update, projected))
        raise AssertionError("the plan ends at the logits")

    def _cut_changes(self, batch: int, tokens: int) -> Tensor:
        """How what arrives from each removed sender changes when it is cut off, ``(columns, b · tokens · d)``."""
        changes = [self._state.removal_change(batch, column)[None, :, :tokens].flatten(1) for column in self._columns]
        return changes[0] if len(changes) == 1 else torch.cat(changes)

    def _new_reads(
        self, batch: int, read: ReadUpdate, slots: list[int], writes: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """What the leaders read, ``(r, n · b, t, d)``, with the changes of earlier levels but not their own cuts."""
        bank = read.bank
        if bank.reads is not None:
            reads = bank.reads.get(batch, [bank.item_of[row] for row in read.leaders], read.tokens)
        else:
            assert writes is not None
            keep = self._keep_mask[[bank.first_row + row for row in read.leaders]]
            reads = read_streams(self._levels, bank.level, keep, *writes, tokens=read.tokens)
        flat = reads.flatten(1)
        size = self._count * flat.shape[1]
        if bank.reads is not None and read.tokens == bank.tokens:
            new = bank.reads.room(batch, slots).view(len(flat), size)
        else:
            new = flat.new_empty(len(flat), size)
        by_candidate = new.unflatten(1, (self._count, -1))
        if read.feeds is None:
            by_candidate.copy_(flat[:, None].expand(-1, self._count, -1))
        else:
            changes = self._state.write_changes(read.tokens, self._count * reads.shape[1]).flatten(1)
            arriving = read.feeds(changes[: read.feeds.senders])
            torch.add(arriving.unflatten(1, (self._count, -1)), flat[:, None], out=by_candidate)
        return new.view(len(flat), -1, *reads.shape[2:])

    def _add_cuts(self, reads: Tensor, read: ReadUpdate, changes: Tensor) -> None:
        """Add to ``reads (r, n · b, t, d)`` what the candidates' own edges change."""
        if len(changes) > 1 or self._count > 1:
            rows = [read.bank.first_row + read.leaders[position] for position in read.cut]
            changes = torch.cat([self._cut_weights[row] for row in rows]) @ changes
        cuts = changes.view(-1, *reads.shape[1:])
        if len(read.cut) == len(reads):
            reads += cuts
        else:
            reads[read.cut] += cuts

    def _project(self, read: ReadUpdate, reads: Tensor) -> Tensor:
        """Projections ``(rows, n · b, t, width)`` of receivers from what their leaders read."""
        flat = reads.flatten(1, 2)
        if len(read.leaders) not in (1, len(read.rows)):
            flat = flat[read.leader_of]
        return project(flat, read.weight, read.bias).view(len(read.rows), *reads.shape[1:3], -1)

    def _activate(self, batch: int, update: Update, projected: list[Tensor]) -> Tensor:
        """New activations ``(nodes, n · b, t, k)`` from the projections of each read update."""
        nodes = self._levels[update.level]
        if not isinstance(nodes, HeadLevel):
            return nodes.activate(projected[0])
        if not nodes.split:
            queries, keys, values = projected[0].chunk(3, dim=-1)
            return nodes.activate(queries[:, :, : update.tokens], keys, values)
        # Which read update, and which of its rows, has the new projection of a row.
        position_of = {
            row: (index, position) for index, read in enumerate(update.reads) for position, row in enumerate(read.rows)
        }
        queries, keys, values = (self._port(batch, update, port, projected, position_of) for port in range(3))
        return nodes.activate(queries[:, :, : update.tokens], keys, values)

    def _port(
        self, batch: int, update: Update, port: int, projected: list[Tensor], position_of: dict[int, tuple[int, int]]
    ) -> Tensor:
        """Queries, keys or values of the heads that change, ``(nodes, n · b, t, k)``: new ones where there are any."""
        rows = [3 * node + port for node in update.nodes]
        new = [position_of[row] for row in rows if row in position_of]
        if len(new) == len(rows):
            # Those of one port are consecutive.
            index, first = new[0]
            return projected[index][first : first + len(rows)]
        (bank,) = (bank for bank in self._state.banks[update.level] if rows[0] in bank.item_of)
        assert bank.projections is not None
        tokens = projected[new[0][0]].shape[2] if new else None
        current = bank.projections.get(batch, [bank.item_of[row] for row in rows], tokens)
        values = current.repeat(1, self._count, 1, 1) if self._count > 1 or new else current
        for item, row in enumerate(rows):
            if row in position_of:
                index, position = position_of[row]
                values[item] = projected[index][position]
        return values

    def _send(self, batch: int, update: Update, slots: _Slots, activations: Tensor) -> None:
        """Keep new activations, and write how their nodes' writes change for later levels to read."""
        store = self._state.activations[update.level]
        by_candidate = activations.unflatten(1, (self._count, -1))
        store.put(batch, slots.activations, by_candidate.flatten(0, 1))
        differences = by_candidate - store.get(batch, update.nodes, update.tokens)[:, None]
        images, count = activations.shape[1], len(update.nodes)
        at_first_token = self._state.write_changes(1, images)[update.start : update.start + count]
        if update.tokens == 1:
            torch.bmm(differences.flatten(1, 3), update.out_weight, out=at_first_token)
            return
        everywhere = self._state.write_changes(update.tokens, images)
        sent = everywhere[update.start_everywhere : update.start_everywhere + count]
        torch.bmm(differences.flatten(1, 3), update.out_weight, out=sent)
        at_first_token.copy_(sent.unflatten(1, (images, update.tokens))[:, :, 0])
