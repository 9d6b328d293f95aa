"""The damage of a circuit with more edges removed, at the cost of what their removal changes.

Legend of dimensions:
    b  images of a batch    n  candidates evaluated together    t  tokens    d  width of the stream
    r  receivers            s  senders that change              k  width of a head, or neurons of a group

What every receiver reads, what it projects and what every node makes of that is kept. Removing an edge changes its
receiver's read by a known difference; from there only nodes that are reached through kept edges and that reach the
logits are computed again, each from the differences of what feeds it, and those that matter at the class token alone
only there. Receivers that keep the same senders share one read. The result is that of the full masked forward
pass, up to rounding; ``refresh`` takes that pass again so that rounding does not add up.

Images are worked through in batches that fit the processor's cache, or that bound the memory on request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import check_finite
from vitprune.circuit.engine.plan import Bank, Part, Plan, Step, make_plan
from vitprune.circuit.engine.slots import VersionStore
from vitprune.circuit.graph import EdgeIndex, Graph
from vitprune.circuit.levels import HeadLevel, Levels, centred, project
from vitprune.circuit.masked import check_images, read_streams
from vitprune.circuit.metrics import MetricName, Reference, damage, metric_named
from vitprune.distributed import gathered, total, world
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT

CACHE_BYTES = 32 << 20
"""On a CPU, a batch has as many images as keep the reads of one level within this size."""


class IncrementalEvaluator:
    """A circuit as it stands during a search: its damage, and that of each way to make it smaller.

    ``batch_size`` bounds the images whose activations are held at once; if there are more images, reads are computed
    again each time they are needed instead of being kept. ``candidates`` is the most that may be evaluated together.
    ``keep_mask`` is on the CPU, activations live on the images' device. The damage is the mean of ``metric``. Each of
    several ranks works on its share of the images, and all know the damage.

    Raises CircuitError for logits that are not finite, images the model cannot take, fewer images than ranks, or a
    graph or an ablation of another model.
    """

    damage: float

    def __init__(
        self,
        model: ViT,
        images: Tensor,
        graph: Graph,
        keep_mask: Tensor,
        ablation: Ablation,
        *,
        metric: MetricName = "kl",
        labels: Tensor | None = None,
        batch_size: int | None = None,
        candidates: int = 1,
    ) -> None:
        check_images(model, images)
        ablation.check(model)
        self.model, self.images, self.graph, self.ablation = model, images, graph, ablation
        self.keep_mask = keep_mask.clone()
        self.candidates = candidates
        self.levels = Levels(model, graph)
        self._metric = metric_named(metric)
        share = world().share_of(len(images))
        if share.start == share.stop:
            raise CircuitError(f"{len(images)} images are too few for {world().size} processes: each needs one")
        self._keeps_reads = batch_size is None or share.stop - share.start <= batch_size
        self._slices = self._batches(share, batch_size)
        with torch.no_grad():
            mine = torch.cat([model(images[chosen]) for chosen in self._slices])
            self.full_logits = gathered(mine, len(images))
            self._embeddings = [centred(model.embed(images[chosen])) for chosen in self._slices]
        check_finite(self.full_logits)
        reference = Reference.of(self.full_logits, labels)
        self._references = [reference.of_images(chosen) for chosen in self._slices]
        self._ablated = self._ablated_activations()
        self._allocate()
        self.refresh()

    def _batches(self, share: slice, batch_size: int | None) -> list[slice]:
        """The batches in which a share of the images is worked through."""
        first, count, config = share.start, share.stop - share.start, self.model.config
        most = count if batch_size is None else min(batch_size, count)
        if self.images.device.type == "cpu":
            rows = max(len(rows) for rows in self.graph.level_receivers)
            image_bytes = rows * config.num_tokens * config.d_model * self.images.element_size()
            most = min(most, max(1, CACHE_BYTES // image_bytes))
        batches = -(-count // most)
        starts = [first + count * place // batches for place in range(batches + 1)]
        return [slice(start, stop) for start, stop in pairwise(starts)]

    def _ablated_activations(self) -> list[list[Tensor]]:
        """For each batch, by level, what stands in for activations of removed senders, ``(nodes, b or 1, t, k)``."""
        if self.ablation.foldable:
            found = self.levels.by_level(self.ablation.activations(self.model, self.images))
            return [found] * len(self._slices)
        return [
            self.levels.by_level(self.ablation.activations(self.model, self.images[chosen], chosen.start))
            for chosen in self._slices
        ]

    def _allocate(self) -> None:
        """Room for what is kept. On a CPU, memory that is never written to costs nothing."""
        graph, levels, config = self.graph, self.levels, self.model.config
        like, tokens, width = self.model.positions.detach(), config.num_tokens, config.d_model
        sizes = [chosen.stop - chosen.start for chosen in self._slices]

        # Twice the room that is needed, so that there is a free run to write to, unless memory is what counts.
        spare = 2 * self.candidates if self._keeps_reads else self.candidates

        def store(items: int, *shape: int) -> VersionStore:
            return VersionStore(items, spare, [(size, *shape) for size in sizes], like)

        self._banks: list[list[Bank]] = [[] for _ in graph.level_receivers]
        self._activations: dict[int, VersionStore] = {}
        for level, rows in enumerate(graph.level_receivers):
            if not rows:
                continue
            part = levels[level] if level < graph.last_level else None
            by_tokens: dict[int, list[int]] = {}
            for place, row in enumerate(rows):
                read = levels.reads_tokens(level, graph.receivers[row].port) or tokens
                by_tokens.setdefault(read, []).append(place)
            for read, places in by_tokens.items():
                reads = store(len(places), read, width) if self._keeps_reads else None
                is_split = isinstance(part, HeadLevel) and part.split
                projections = store(len(places), read, config.d_head) if is_split else None
                self._banks[level].append(Bank(level, places, rows.start, read, reads, projections))
            if part is not None:
                sent = 1 if level >= levels.class_token_from else tokens
                shape = (sent, part.out_weight.shape[1])
                self._activations[level] = store(len(graph.level_senders[level]), *shape)
                for values in self._activations[level].batches:
                    # Tokens that nothing reads are not written, but may meet a weight of 0 in a sum.
                    values.zero_()
        # How what senders write differs, for one batch of images: all tokens', and the first's (the class token's).
        room = self.candidates * max(sizes) * width
        self._all_tokens = like.new_empty(len(graph.senders) * room * tokens)
        self._first_token = like.new_empty(len(graph.senders) * room)

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the circuit as it stands from scratch."""
        self._matters: tuple[Tensor, Tensor] | None = None
        self._plan: Plan | None = None
        self._tried: list[list[EdgeIndex]] = []
        self._known_changes: dict[int, list[Tensor]] = {}
        for bank in (bank for banks in self._banks for bank in banks):
            keep = self.keep_mask[[bank.first_row + row for row in bank.rows]].numpy()
            if bank.reads is not None:
                # Receivers that keep the same senders read the same.
                seen: dict[bytes, int] = {}
                bank.reads.current = [seen.setdefault(pattern.tobytes(), item) for item, pattern in enumerate(keep)]
            if bank.projections is not None:
                bank.projections.current = list(range(len(keep)))
        for activations in self._activations.values():
            activations.current = list(range(len(activations.current)))
        damages = [self._refresh_batch(batch) for batch in range(len(self._slices))]
        self.damage = float(total(torch.tensor(sum(damages), dtype=torch.float64))) / len(self.images)
        self.damages = [self.damage]

    def _refresh_batch(self, batch: int) -> float:
        """The summed damage of a batch of images; all that is kept of it is written anew."""
        graph, levels = self.graph, self.levels
        embedding = self._embeddings[batch]
        removed_writes = levels.send_all(self._ablated[batch])
        writes = embedding.new_zeros(len(graph.senders), *embedding.shape)
        writes[0] = embedding
        for level, rows in enumerate(graph.level_receivers[: graph.last_level]):
            if not rows:
                continue
            columns = graph.level_senders[level]
            patterns, which = torch.unique(self.keep_mask[rows.start : rows.stop], dim=0, return_inverse=True)
            streams = read_streams(levels, level, patterns, writes, removed_writes)
            self._put_reads(batch, level, streams, which.tolist())
            projections = levels.project(level, streams, which)
            for bank in self._banks[level]:
                if bank.projections is not None:
                    bank.projections.put(batch, bank.projections.current, projections[bank.rows, :, : bank.tokens])
            activations = levels.activate(level, projections)
            self._activations[level].put(batch, self._activations[level].current, activations)
            writes[columns.start : columns.stop, :, : activations.shape[2]] = levels.send(level, activations)
        last = read_streams(levels, graph.last_level, self.keep_mask[-1:], writes, removed_writes)
        self._put_reads(batch, graph.last_level, last, [0])
        return float(self._damage(batch, last)[0])

    def _put_reads(self, batch: int, level: int, streams: Tensor, which: list[int]) -> None:
        for bank in self._banks[level]:
            if bank.reads is not None:
                for item, row in enumerate(bank.rows):
                    if bank.reads.current[item] == item:
                        bank.reads.put(batch, [item], streams[which[row], None, :, : bank.tokens])

    @property
    def live(self) -> Tensor:
        """For each sender whether it has a path to the logits in the circuit as it stands, ``(senders,)``."""
        return self._what_matters()[0]

    def _what_matters(self) -> tuple[Tensor, Tensor]:
        if self._matters is None:
            self._matters = self.graph.what_matters(self.keep_mask)
        return self._matters

    def is_live(self, row: int) -> bool:
        """Whether what a receiver reads can still change the logits."""
        node = self.graph.receivers[row].node
        return node.kind == "logits" or bool(self.live[self.graph.sender_index[node.name]])

    @torch.no_grad()
    def damage_without(self, candidates: list[list[EdgeIndex]]) -> list[float]:
        """For each candidate the damage of the circuit if the kept edges that it lists were removed as well.

        All edges lead to one receiver, or all come out of nodes of one level. At most ``candidates`` at once.
        """
        self._tried = candidates
        rows = frozenset(row for places in candidates for row, _ in places)
        if self._plan is None or self._plan.rows != rows:
            everywhere = self._what_matters()[1]
            self._plan = make_plan(self.levels, self._banks, self.keep_mask, self.is_live, everywhere, rows)
        plan, count = self._plan, len(candidates)
        if not plan.steps or plan.steps[-1].level < self.graph.last_level:
            self.damages = [self.damage] * count
            return self.damages
        self._take_places(plan, count)
        columns = sorted({column for places in candidates for _, column in places})
        cuts = {row: self._cut_weights(row, columns) for row in plan.cut_rows}
        totals = torch.zeros(count, dtype=torch.float64)
        for batch in range(len(self._slices)):
            totals += self._propagate(plan, batch, count, columns, cuts)
        self.damages = (total(totals) / len(self.images)).tolist()
        return self.damages

    def accept(self, choice: int = 0) -> None:
        """Make one of the candidates that were tried last part of the circuit."""
        plan, count = self._plan, len(self._tried)
        assert plan is not None, "damage_without comes first"
        for step in plan.steps:
            for part in step.parts:
                bank = part.bank
                for place, row in enumerate(part.rows):
                    item = bank.item_of[row]
                    if bank.reads is not None:
                        bank.reads.current[item] = part.read_places[part.leader_of[place] * count + choice]
                    if bank.projections is not None:
                        bank.projections.current[item] = part.projection_places[place * count + choice]
            if step.places:
                current = self._activations[step.level].current
                start = self.graph.level_senders[step.level].start
                for place, node in enumerate(step.nodes):
                    current[node] = step.places[place * count + choice]
                    self._known_changes.pop(start + node, None)
        self.damage = self.damages[choice]
        for row, column in self._tried[choice]:
            self.keep_mask[row, column] = False
        self._matters = None
        if plan.shared or len(plan.cut_rows) > 1:
            self._plan = None
        self._tried = []

    def remove_unreachable(self, places: Iterable[Sequence[int]]) -> None:
        """Remove edges without a computation: those that cannot change the logits, or before a ``refresh``."""
        for row, column in places:
            self.keep_mask[row, column] = False
        self._matters = self._plan = None

    def _take_places(self, plan: Plan, count: int) -> None:
        """Find room for what the candidates change."""
        for bank in (bank for banks in self._banks for bank in banks):
            for store in (bank.reads, bank.projections):
                if store is not None:
                    store.give_back()
        for activations in self._activations.values():
            activations.give_back()
        for step in plan.steps:
            for part in step.parts:
                if part.bank.reads is not None:
                    part.read_places = part.bank.reads.take(len(part.leaders) * count)
                if part.bank.projections is not None:
                    part.projection_places = part.bank.projections.take(len(part.rows) * count)
            if step.level < self.graph.last_level:
                step.places = self._activations[step.level].take(len(step.nodes) * count)

    def _cut(self, part: Part, changes: Tensor, cuts: dict[int, Tensor]) -> Tensor:
        """The changes of reads by the cuts themselves, ``(cut leaders, n · b · tokens · d)``, or one row for all."""
        if len(changes) == 1 and len(self._tried) == 1:
            return changes
        weights = torch.cat([cuts[part.bank.first_row + part.leaders[place]] for place in part.cut])
        return weights @ changes

    def _cut_weights(self, row: int, columns: list[int]) -> Tensor:
        """For each candidate which of ``columns`` it cuts off from a receiver, ``(n, columns)``."""
        weights = [[float((row, column) in places) for column in columns] for places in map(set, self._tried)]
        return torch.tensor(weights).to(self._all_tokens)

    def _propagate(self, plan: Plan, batch: int, count: int, columns: list[int], cuts: dict[int, Tensor]) -> Tensor:
        """The summed damage of a batch of images for each of ``count`` candidates."""
        changes: dict[int, Tensor] = {}
        writes = None if self._keeps_reads else self._all_writes(batch)
        for step in plan.steps:
            projected = []
            for part in step.parts:
                tokens = part.tokens
                if part.cut and tokens not in changes:
                    changes[tokens] = self._changes(batch, columns, tokens)
                reads = self._new_reads(part, batch, count, writes)
                if part.cut:
                    cut = self._cut(part, changes[tokens], cuts).view(-1, *reads.shape[1:])
                    if len(part.cut) == len(reads):
                        reads += cut
                    else:
                        reads[part.cut] += cut
                if part.bank.reads is not None:
                    part.bank.reads.put(batch, part.read_places, reads.view(-1, *self._shape(batch, tokens)))
                if step.level == self.graph.last_level:
                    return self._damage(batch, reads[0].unflatten(0, (count, -1)))
                projected.append(self._project(part, reads))
                if part.bank.projections is not None:
                    values = projected[-1].view(-1, *self._shape(batch, tokens)[:2], projected[-1].shape[-1])
                    part.bank.projections.put(batch, part.projection_places, values)
            self._send(step, batch, count, self._activate(step, batch, count, projected))
        raise AssertionError("the plan ends at the logits")

    def _shape(self, batch: int, tokens: int) -> tuple[int, int, int]:
        """Shape ``(b, tokens, d)`` of one read."""
        return (len(self._embeddings[batch]), tokens, self.model.config.d_model)

    def _changes(self, batch: int, columns: list[int], tokens: int) -> Tensor:
        """How what removed senders give differs from what they give now, ``(columns, b · tokens · d)``."""
        changes = []
        for column in columns:
            if self._keeps_reads and column not in self._known_changes:
                # A sender is tried at many receivers before it changes itself.
                self._known_changes[column] = [self._change(each, column) for each in range(len(self._slices))]
            change = self._known_changes[column][batch] if self._keeps_reads else self._change(batch, column)
            changes.append(change[None, :, :tokens].flatten(1))
        return changes[0] if len(changes) == 1 else torch.cat(changes)

    def _change(self, batch: int, column: int) -> Tensor:
        """How what a removed sender gives differs from what it gives now, ``(b, t, d)``; t may be 1."""
        level = self.graph.senders[column].level
        node = column - self.graph.level_senders[level].start
        ablated = self._ablated[batch][level][node]
        if level == 0:
            return ablated - self._embeddings[batch]
        current = self._activations[level].get(batch, [node])[0]
        return (ablated[:, : current.shape[1]] - current) @ self.levels[level].out_weight[node]

    def _new_reads(self, part: Part, batch: int, count: int, writes: tuple[Tensor, Tensor] | None) -> Tensor:
        """What the leaders read given what senders changed, but for their own cuts, ``(leaders, n · b, t, d)``."""
        bank = part.bank
        if bank.reads is not None:
            reads = bank.reads.get(batch, [bank.item_of[row] for row in part.leaders], part.tokens)
        else:
            assert writes is not None
            keep = self.keep_mask[[bank.first_row + row for row in part.leaders]]
            reads = read_streams(self.levels, bank.level, keep, *writes, tokens=part.tokens)
        flat = reads.flatten(1)
        size = count * flat.shape[1]
        if bank.reads is not None and part.tokens == bank.tokens:
            new = bank.reads.room(batch, part.read_places).view(len(flat), size)
        else:
            new = flat.new_empty(len(flat), size)
        if part.feeds is None:
            new.unflatten(1, (count, -1)).copy_(flat[:, None].expand(-1, count, -1))
        else:
            buffer = self._first_token if part.tokens == 1 else self._all_tokens
            arriving = part.feeds(self._rows(buffer, size)[: part.feeds.senders])
            torch.add(arriving.unflatten(1, (count, -1)), flat[:, None], out=new.unflatten(1, (count, -1)))
        return new.view(len(flat), -1, *reads.shape[2:])

    def _project(self, part: Part, reads: Tensor) -> Tensor:
        """Projections ``(rows, n · b, t, width)`` of a part's receivers from what its leaders read."""
        flat = reads.flatten(1, 2)
        if len(part.leaders) not in (1, len(part.rows)):
            flat = flat[part.leader_of]
        return project(flat, part.weight, part.bias).view(len(part.rows), *reads.shape[1:3], -1)

    def _activate(self, step: Step, batch: int, count: int, projected: list[Tensor]) -> Tensor:
        """New activations ``(nodes, n · b, t, k)`` of a step's nodes."""
        levels = self.levels
        part = levels[step.level]
        if not isinstance(part, HeadLevel):
            return part.activate(projected[0])
        if not part.split:
            queries, keys, values = projected[0].chunk(3, dim=-1)
            return part.activate(queries[:, :, : step.tokens], keys, values)
        places = {row: (p, i) for p, found in enumerate(step.parts) for i, row in enumerate(found.rows)}
        ports = [
            self._port(step, batch, count, [3 * node + port for node in step.nodes], projected, places)
            for port in range(3)
        ]
        return part.activate(ports[0][:, :, : step.tokens], ports[1], ports[2])

    def _port(
        self,
        step: Step,
        batch: int,
        count: int,
        rows: list[int],
        projected: list[Tensor],
        places: dict[int, tuple[int, int]],
    ) -> Tensor:
        """Queries, keys or values of a step's heads, ``(nodes, n · b, t, k)``: new where their receiver changes."""
        fresh = [places[row] for row in rows if row in places]
        if len(fresh) == len(rows):
            # Those of one port stand in a row.
            part, first = fresh[0]
            return projected[part][first : first + len(rows)]
        (bank,) = (bank for bank in self._banks[step.level] if rows[0] in bank.item_of)
        assert bank.projections is not None
        tokens = projected[fresh[0][0]].shape[2] if fresh else None
        kept = bank.projections.get(batch, [bank.item_of[row] for row in rows], tokens)
        port = kept.repeat(1, count, 1, 1) if count > 1 or fresh else kept
        for item, row in enumerate(rows):
            if row in places:
                port[item] = projected[places[row][0]][places[row][1]]
        return port

    def _send(self, step: Step, batch: int, count: int, activations: Tensor) -> None:
        """Keep new activations, and put the differences of what their nodes write where later levels look."""
        store = self._activations[step.level]
        by_candidate = activations.unflatten(1, (count, -1))
        store.put(batch, step.places, by_candidate.flatten(0, 1))
        differences = by_candidate - store.get(batch, step.nodes, step.tokens)[:, None]
        every, width = activations.shape[1], self.model.config.d_model
        first = self._rows(self._first_token, every, width)[step.start : step.start + len(step.nodes)]
        if step.tokens == 1:
            torch.bmm(differences.flatten(1, 3), step.out_weight, out=first)
            return
        rows = self._rows(self._all_tokens, every * step.tokens, width)
        sent = rows[step.start_everywhere : step.start_everywhere + len(step.nodes)]
        torch.bmm(differences.flatten(1, 3), step.out_weight, out=sent)
        first.copy_(sent.unflatten(1, (every, step.tokens))[:, :, 0])

    def _rows(self, buffer: Tensor, *shape: int) -> Tensor:
        """The start of a buffer as one row of ``shape`` for each sender."""
        senders = len(self.graph.senders)
        return buffer[: senders * math.prod(shape)].view(senders, *shape)

    def _all_writes(self, batch: int) -> tuple[Tensor, Tensor]:
        """What every sender writes in the circuit as it stands, and what stands in for it when it is removed."""
        levels = self.levels
        removed = levels.send_all(self._ablated[batch])
        writes = removed.new_zeros(len(removed), *self._shape(batch, self.model.config.num_tokens))
        writes[0] = self._embeddings[batch]
        for level, store in self._activations.items():
            columns = self.graph.level_senders[level]
            sent = levels.send(level, store.get(batch, range(len(columns))))
            writes[columns.start : columns.stop, :, : sent.shape[2]] = sent
        return writes, removed

    def _damage(self, batch: int, last_reads: Tensor) -> Tensor:
        """The summed damage of a batch of images, from what the logits read, ``(n, b, t, d) -> (n,)``."""
        logits = self.model.classify(last_reads.flatten(0, 1)).unflatten(0, last_reads.shape[:2])
        if not torch.isfinite(logits).all():
            raise CircuitError(
                "the circuit's logits are not finite on these images: check the ablation and the weights"
            )
        return damage(self._metric, logits, self._references[batch]).sum(dim=-1)
