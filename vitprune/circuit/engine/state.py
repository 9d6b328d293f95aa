"""What is kept of a circuit during a search: what its receivers read, what they project, and what its nodes compute.

Legend of dimensions:
    b  images of a batch    t  tokens    d  width of the stream    k  width of a head, or neurons of a group
    s  senders

Images are worked through in batches that fit the processor's cache, or that bound the memory on request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import run_whole
from vitprune.circuit.engine.slots import VersionStore
from vitprune.circuit.levels import HeadLevel, Levels, centred
from vitprune.circuit.masked import read_streams

CACHE_BYTES = 32 << 20
"""On a CPU, a batch has as many images as keep the reads of one level within this size."""


@dataclass
class Bank:
    """Receivers of one level that read equally many tokens; ``rows`` are numbered within the level.

    ``reads`` is None where memory is bounded, ``projections`` where a node's receivers always change together.
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

    @property
    def stores(self) -> list[VersionStore]:
        return [store for store in (self.reads, self.projections) if store is not None]

    def read_key(self, row: int) -> int:
        """Identifies what a row reads: equal for rows that share a read."""
        return self.item_of[row] if self.reads is None else self.reads.current[self.item_of[row]]


class State:
    """Embeddings, ablated activations, reads, projections and activations on ``share`` of the images.

    In a search by denoising, images and ablation change places: the embedding is the ablated one, and what replaces the
    activations of removed senders are those of the whole model on the images.

    ``batch_size`` bounds the images whose activations are held at once. If there are more images, reads are computed
    each time they are needed instead of being kept. ``candidates`` is the most that may be evaluated together.
    """

    def __init__(
        self,
        levels: Levels,
        images: Tensor,
        ablation: Ablation,
        share: slice,
        *,
        batch_size: int | None,
        candidates: int,
        is_denoising: bool,
    ) -> None:
        self.levels, self.graph, self.config = levels, levels.graph, levels.model.config
        self.keeps_reads = batch_size is None or share.stop - share.start <= batch_size
        self.batches = self._batches(images, share, batch_size)
        self._sizes = [batch.stop - batch.start for batch in self.batches]
        take = self._take_swapped if is_denoising else self._take
        take(images, ablation)
        # Twice the room that is needed, so that there are consecutive free slots, unless memory is what counts.
        self._spare = 2 * candidates if self.keeps_reads else candidates
        self.banks: list[list[Bank]] = [self._level_banks(level) for level in range(self.graph.last_level + 1)]
        self.activations = {
            level: self._activation_store(level)
            for level, rows in enumerate(self.graph.level_receivers[: self.graph.last_level])
            if rows
        }
        # How what senders write changes on one batch of images, at all tokens and at the first (the class token).
        room = len(self.graph.senders) * candidates * max(self._sizes) * self.config.d_model
        like = levels.model.positions.detach()
        self._changes_everywhere = like.new_empty(room * self.config.num_tokens)
        self._changes_at_first_token = like.new_empty(room)
        self._removal_changes: dict[int, list[Tensor]] = {}

    def _batches(self, images: Tensor, share: slice, batch_size: int | None) -> list[slice]:
        """The batches in which a share of the images is worked through."""
        count = share.stop - share.start
        most = count if batch_size is None else min(batch_size, count)
        if images.device.type == "cpu":
            rows = max(len(rows) for rows in self.graph.level_receivers)
            image_bytes = rows * self.config.num_tokens * self.config.d_model * images.element_size()
            most = min(most, max(1, CACHE_BYTES // image_bytes))
        batches = -(-count // most)
        starts = [share.start + count * batch // batches for batch in range(batches + 1)]
        return [slice(start, stop) for start, stop in pairwise(starts)]

    def _take(self, images: Tensor, ablation: Ablation) -> None:
        """Set the centred embedding ``(b, t, d)`` of each batch, and what replaces activations of removed senders.

        The latter is ``(nodes, b or 1, t, k)`` for each level of each batch.
        """
        model = self.levels.model
        self.embeddings = [centred(model.embed(images[batch])) for batch in self.batches]
        if ablation.foldable:
            self._ablated = [self.levels.by_level(ablation.activations(model, images, 0))] * len(self.batches)
            return
        self._ablated = [
            self.levels.by_level(ablation.activations(model, images[batch], batch.start)) for batch in self.batches
        ]

    def _take_swapped(self, images: Tensor, ablation: Ablation) -> None:
        """The same with the ablated embedding, and activations of the whole model in place of those removed."""
        model = self.levels.model
        self.embeddings, self._ablated = [], []
        for batch in self.batches:
            clean = run_whole(model, images[batch])[1]
            embed = ablation.activations(model, images[batch], batch.start).embed
            self.embeddings.append(centred(embed).expand_as(clean.embed))
            self._ablated.append(self.levels.by_level(clean))

    def _store(self, items: int, *shape: int) -> VersionStore:
        """Slots for values of ``shape`` for each image. On a CPU, memory that is never written to costs nothing."""
        like = self.levels.model.positions.detach()
        return VersionStore(items, self._spare, [(size, *shape) for size in self._sizes], like)

    def _level_banks(self, level: int) -> list[Bank]:
        """The receivers of a level, by how many tokens they read."""
        rows, config = self.graph.level_receivers[level], self.config
        nodes = self.levels[level] if rows and level < self.graph.last_level else None
        has_own_projections = isinstance(nodes, HeadLevel) and nodes.split
        by_tokens: dict[int, list[int]] = {}
        for row, absolute in enumerate(rows):
            tokens = self.levels.reads_tokens(level, self.graph.receivers[absolute].port) or config.num_tokens
            by_tokens.setdefault(tokens, []).append(row)
        banks = []
        for tokens, bank_rows in by_tokens.items():
            reads = self._store(len(bank_rows), tokens, config.d_model) if self.keeps_reads else None
            projections = self._store(len(bank_rows), tokens, config.d_head) if has_own_projections else None
            banks.append(Bank(level, bank_rows, rows.start, tokens, reads, projections))
        return banks

    def _activation_store(self, level: int) -> VersionStore:
        tokens = 1 if level >= self.levels.class_token_from else self.config.num_tokens
        width = self.levels[level].out_weight.shape[1]
        store = self._store(len(self.graph.level_senders[level]), tokens, width)
        for values in store.batches:
            # Tokens that nothing reads are not written, but may meet a weight of 0 in a sum.
            values.zero_()
        return store

    @property
    def stores(self) -> list[VersionStore]:
        """All slots that hold versions."""
        return [
            *(store for banks in self.banks for bank in banks for store in bank.stores),
            *self.activations.values(),
        ]

    def read_shape(self, batch: int, tokens: int) -> tuple[int, int, int]:
        """Shape ``(b, tokens, d)`` of one read."""
        return (self._sizes[batch], tokens, self.config.d_model)

    def reset(self, keep_mask: Tensor) -> None:
        """Give every item a slot of its own, and receivers that keep the same senders a common one for their read."""
        self._removal_changes.clear()
        for bank in (bank for banks in self.banks for bank in banks):
            keep = keep_mask[[bank.first_row + row for row in bank.rows]].numpy()
            if bank.reads is not None:
                seen: dict[bytes, int] = {}
                bank.reads.current = [seen.setdefault(pattern.tobytes(), item) for item, pattern in enumerate(keep)]
            if bank.projections is not None:
                bank.projections.current = list(range(len(keep)))
        for activations in self.activations.values():
            activations.current = list(range(len(activations.current)))

    def recompute(self, batch: int, keep_mask: Tensor) -> Tensor:
        """Compute everything that is kept of a batch from scratch; returns what the logits read, ``(1, b, t, d)``."""
        graph, levels = self.graph, self.levels
        embedding = self.embeddings[batch]
        removed_writes = levels.send_all(self._ablated[batch])
        writes = embedding.new_zeros(len(graph.senders), *embedding.shape)
        writes[0] = embedding
        for level, rows in enumerate(graph.level_receivers[: graph.last_level]):
            if not rows:
                continue
            columns = graph.level_senders[level]
            patterns, which = torch.unique(keep_mask[rows.start : rows.stop], dim=0, return_inverse=True)
            streams = read_streams(levels, level, patterns, writes, removed_writes)
            self._put_reads(batch, level, streams, which.tolist())
            projections = levels.project(level, streams, which)
            for bank in self.banks[level]:
                if bank.projections is not None:
                    bank.projections.put(batch, bank.projections.current, projections[bank.rows, :, : bank.tokens])
            activations = levels.activate(level, projections)
            self.activations[level].put(batch, self.activations[level].current, activations)
            writes[columns.start : columns.stop, :, : activations.shape[2]] = levels.send(level, activations)
        last = read_streams(levels, graph.last_level, keep_mask[-1:], writes, removed_writes)
        self._put_reads(batch, graph.last_level, last, [0])
        return last

    def _put_reads(self, batch: int, level: int, streams: Tensor, which: list[int]) -> None:
        for bank in self.banks[level]:
            if bank.reads is not None:
                for item, row in enumerate(bank.rows):
                    if bank.reads.current[item] == item:
                        bank.reads.put(batch, [item], streams[which[row], None, :, : bank.tokens])

    def all_writes(self, batch: int) -> tuple[Tensor, Tensor]:
        """What every sender writes in the current circuit, and what replaces it when removed, ``(s, b, t, d)``."""
        levels = self.levels
        removed = levels.send_all(self._ablated[batch])
        writes = removed.new_zeros(len(removed), *self.read_shape(batch, self.config.num_tokens))
        writes[0] = self.embeddings[batch]
        for level, store in self.activations.items():
            columns = self.graph.level_senders[level]
            sent = levels.send(level, store.get(batch, range(len(columns))))
            writes[columns.start : columns.stop, :, : sent.shape[2]] = sent
        return writes, removed

    def removal_change(self, batch: int, column: int) -> Tensor:
        """How what arrives from a sender changes when it is removed, ``(b, t, d)``; t may be 1."""
        if not self.keeps_reads:
            return self._removal_change(batch, column)
        if column not in self._removal_changes:
            # A sender is tried at many receivers before it changes itself.
            changes = [self._removal_change(index, column) for index in range(len(self.batches))]
            self._removal_changes[column] = changes
        return self._removal_changes[column][batch]

    def _removal_change(self, batch: int, column: int) -> Tensor:
        level = self.graph.senders[column].level
        node = column - self.graph.level_senders[level].start
        ablated = self._ablated[batch][level][node]
        if level == 0:
            return ablated - self.embeddings[batch]
        current = self.activations[level].get(batch, [node])[0]
        return (ablated[:, : current.shape[1]] - current) @ self.levels[level].out_weight[node]

    def forget_removal_change(self, column: int) -> None:
        """A sender's activations have changed."""
        self._removal_changes.pop(column, None)

    def write_changes(self, tokens: int, images: int) -> Tensor:
        """Room for how the writes of changed senders change at the first ``tokens``, ``(s, images · tokens, d)``."""
        room = self._changes_at_first_token if tokens == 1 else self._changes_everywhere
        shape = (len(self.graph.senders), images * tokens, self.config.d_model)
        return room[: math.prod(shape)].view(shape)
