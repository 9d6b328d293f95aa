"""The computational graph of a ViT: which nodes write to the residual stream, and which read what was written.

Senders write to the stream. They are ``embed`` (patches, class token, positions), heads ``a{layer}.h{head}``, and MLPs
``m{layer}`` or groups of their neurons ``m{layer}.g{group}``. Receivers read the stream. They are the inputs
``a{layer}.h{head}.q``, ``.k`` and ``.v`` of a head (or ``a{layer}.h{head}`` if they are not split), MLPs or their
groups, and ``logits``. An edge runs from every sender to every receiver of a later level. The levels are embed, then
for each layer its heads and its MLP, then logits. Nodes of one level do not feed each other. Senders and receivers are
always listed in the order of their levels.

The logits read the class token, or all tokens with mean pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitprune.core.model.config import Pooling
from vitprune.core.model.vit import ViT
from vitprune.errors import CircuitError

Edge = tuple[str, str]
"""A sender and a receiver, by name."""

EdgeIndex = tuple[int, int]
"""Row and column of an edge in a mask ``(receivers, senders)``."""


@dataclass(frozen=True)
class Node:
    """A part of the model that computes something; ``index`` is the number of its head or neuron group in the layer."""

    name: str
    kind: Literal["embed", "head", "mlp", "logits"]
    level: int
    layer: int
    index: int


@dataclass(frozen=True)
class Receiver:
    """An input of a node; ``port`` is q, k or v for a split head and empty otherwise.

    ``always_reads_all_tokens`` is True for keys, values, heads that are not split, and mean-pooled logits: they depend
    on every token. The others depend on the tokens at which their node matters.
    """

    name: str
    node: Node
    port: Literal["q", "k", "v", ""]
    always_reads_all_tokens: bool


@dataclass(frozen=True)
class Graph:
    """Nodes and possible edges of a ViT with the given heads and neurons in each layer, and the given pooling."""

    layer_heads: tuple[int, ...]
    layer_neurons: tuple[int, ...]
    split_qkv: bool = True
    mlp_groups: int = 1
    pooling: Pooling = "class"

    def __post_init__(self) -> None:
        if self.mlp_groups < 1:
            raise CircuitError(f"mlp_groups must be at least 1, got {self.mlp_groups}")

    @classmethod
    def of(cls, model: ViT, split_qkv: bool = True, mlp_groups: int = 1) -> Graph:
        """The graph of ``model``, whose layers may have been pruned before."""
        config = model.config
        return cls(config.layer_heads, config.layer_neurons, split_qkv, mlp_groups, config.pooling)

    def check(self, model: ViT) -> None:
        """CircuitError unless this is a graph of ``model``."""
        config = model.config
        expected = (config.layer_heads, config.layer_neurons, config.pooling)
        if (self.layer_heads, self.layer_neurons, self.pooling) != expected:
            raise CircuitError(
                f"this graph ({self.describe()}) belongs to another model: this one has heads "
                f"{list(config.layer_heads)}, neurons {list(config.layer_neurons)} and pooling {config.pooling}; use "
                "Graph.of(model)"
            )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in topological order, ``embed`` first and ``logits`` last."""
        nodes = [Node("embed", "embed", 0, -1, 0)]
        for layer, (heads, neurons) in enumerate(zip(self.layer_heads, self.layer_neurons, strict=True)):
            nodes += [Node(f"a{layer}.h{head}", "head", 2 * layer + 1, layer, head) for head in range(heads)]
            for group in range(min(self.mlp_groups, neurons)):
                name = f"m{layer}" if self.mlp_groups == 1 else f"m{layer}.g{group}"
                nodes.append(Node(name, "mlp", 2 * layer + 2, layer, group))
        return (*nodes, Node("logits", "logits", self.last_level, len(self.layer_heads), 0))

    @property
    def last_level(self) -> int:
        """The level of ``logits``."""
        return 2 * len(self.layer_heads) + 1

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Every node but ``logits``."""
        return self.nodes[:-1]

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """Every input of every node but ``embed``."""
        receivers: list[Receiver] = []
        for node in self.nodes[1:]:
            if node.kind == "head" and self.split_qkv:
                receivers += [Receiver(f"{node.name}.{port}", node, port, port != "q") for port in ("q", "k", "v")]
            else:
                reads_all = node.kind == "head" or (node.kind == "logits" and self.pooling == "mean")
                receivers.append(Receiver(node.name, node, "", reads_all))
        return tuple(receivers)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every possible edge, ordered by receiver and then by sender, both in topological order."""
        return self.named(self.all_edges)

    @cached_property
    def all_edges(self) -> Tensor:
        """Mask ``(receivers, senders)`` of the possible edges: those to a later level."""
        sent = torch.tensor([sender.level for sender in self.senders])
        read = torch.tensor([receiver.node.level for receiver in self.receivers])
        return sent[None, :] < read[:, None]

    @cached_property
    def sender_index(self) -> dict[str, int]:
        """Column of each sender in a mask."""
        return {sender.name: column for column, sender in enumerate(self.senders)}

    @cached_property
    def receiver_index(self) -> dict[str, int]:
        """Row of each receiver in a mask."""
        return {receiver.name: row for row, receiver in enumerate(self.receivers)}

    @cached_property
    def level_receivers(self) -> tuple[range, ...]:
        """Rows of the receivers of each level. Level 0, ``embed``, has none."""
        return self._ranges([receiver.node.level for receiver in self.receivers])

    @cached_property
    def level_senders(self) -> tuple[range, ...]:
        """Columns of the senders of each level."""
        return self._ranges([sender.level for sender in self.senders])

    def _ranges(self, levels: list[int]) -> tuple[range, ...]:
        starts = [sum(level < wanted for level in levels) for wanted in range(self.last_level + 2)]
        return tuple(range(start, stop) for start, stop in pairwise(starts))

    @cached_property
    def input_rows(self) -> dict[str, range]:
        """Rows of the receivers of each node."""
        rows: dict[str, list[int]] = {}
        for row, receiver in enumerate(self.receivers):
            rows.setdefault(receiver.node.name, []).append(row)
        return {name: range(node_rows[0], node_rows[-1] + 1) for name, node_rows in rows.items()}

    def group_slices(self, layer: int) -> tuple[slice, ...]:
        """The neurons of each MLP group of a layer: contiguous, in groups whose sizes differ by at most 1."""
        neurons = self.layer_neurons[layer]
        groups = min(self.mlp_groups, neurons)
        bounds = [neurons * group // groups for group in range(groups + 1)] if groups else [0]
        return tuple(slice(start, stop) for start, stop in pairwise(bounds))

    def named(self, keep_mask: Tensor) -> tuple[Edge, ...]:
        """The edges where a mask ``(receivers, senders)`` is True, in the order of ``edges``."""
        return tuple(
            (self.senders[column].name, self.receivers[row].name) for row, column in torch.nonzero(keep_mask).tolist()
        )

    def mask_of(self, edges: tuple[Edge, ...] | list[Edge]) -> Tensor:
        """The mask ``(receivers, senders)`` that is True at ``edges``; CircuitError for an edge not in the graph."""
        mask = torch.zeros_like(self.all_edges)
        for sender, receiver in edges:
            row, column = self.receiver_index.get(receiver, -1), self.sender_index.get(sender, -1)
            if row < 0 or column < 0 or not self.all_edges[row, column]:
                raise CircuitError(f"{sender} → {receiver} is not an edge of this graph ({self.describe()})")
            mask[row, column] = True
        return mask

    def describe(self) -> str:
        """A short description for messages."""
        return (
            f"{len(self.layer_heads)} layers, heads {list(self.layer_heads)}, neurons {list(self.layer_neurons)}, "
            f"split_qkv {self.split_qkv}, mlp_groups {self.mlp_groups}, pooling {self.pooling}"
        )

    def reach_logits(self, keep_mask: Tensor) -> Tensor:
        """For each sender whether a path of kept edges leads from it to ``logits``, as a mask ``(senders,)``."""
        return self.what_matters(keep_mask)[0]

    def what_matters(self, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each sender matters for the logits, and whether it matters at all tokens: two masks ``(senders,)``.

        A sender matters if a path of kept edges leads from it to ``logits``. The logits read the class token, or all
        tokens with mean pooling. Keys and values read all tokens. Queries and MLPs read the tokens at which their own
        node matters.
        """
        keep = keep_mask.numpy()
        live, everywhere = np.zeros((2, len(self.senders)), dtype=bool)
        live_rows, rows_everywhere = np.zeros((2, len(self.receivers)), dtype=bool)
        live_rows[-1] = True
        rows_everywhere[-1] = self.receivers[-1].always_reads_all_tokens
        for column in reversed(range(len(self.senders))):
            live[column] = (keep[:, column] & live_rows).any()
            everywhere[column] = (keep[:, column] & rows_everywhere).any()
            if live[column] and column:
                rows = self.input_rows[self.senders[column].name]
                live_rows[rows.start : rows.stop] = True
                for row in rows:
                    rows_everywhere[row] = everywhere[column] or self.receivers[row].always_reads_all_tokens
        return torch.from_numpy(live), torch.from_numpy(everywhere)

    def reached_from_embed(self, keep_mask: Tensor) -> Tensor:
        """For each sender whether a path of kept edges leads to it from ``embed``, as a mask ``(senders,)``."""
        keep = keep_mask.numpy()
        reached = np.zeros(len(self.senders), dtype=bool)
        reached[0] = True
        for column, sender in enumerate(self.senders[1:], start=1):
            rows = self.input_rows[sender.name]
            reached[column] = (keep[rows.start : rows.stop] & reached).any()
        return torch.from_numpy(reached)

    def close(self, keep_mask: Tensor) -> Tensor:
        """The mask without edges that are on no path from ``embed`` to ``logits``; closing again changes nothing."""
        live = self.reach_logits(keep_mask) & self.reached_from_embed(keep_mask)
        # Dropping what is cut off from one end cannot cut anything off from the other, so one pass is enough.
        live_rows = torch.ones(len(self.receivers), dtype=torch.bool)
        for name, rows in self.input_rows.items():
            if name != "logits":
                live_rows[rows.start : rows.stop] = live[self.sender_index[name]]
        return keep_mask & live[None, :] & live_rows[:, None]
