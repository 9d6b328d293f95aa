"""The arithmetic of single nodes: what a head or a group of neurons writes when each of its inputs is given apart.

Legend of dimensions:
    b  images    t  tokens    d  width of the stream    h  the heads at hand    k  width of a head

In the whole model all nodes of a stage read the same stream and are computed together; in a circuit every receiver has
a stream of its own.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from vitprune.circuit.graph import Graph
from vitprune.model.vit import ViT


class HeadStage:
    """The heads of one layer, their weights cut apart by head."""

    def __init__(self, model: ViT, layer: int) -> None:
        attention = model.blocks[layer].attention
        assert attention is not None
        heads = attention.num_heads
        self.norm = attention.norm
        self.in_weight = rearrange(attention.qkv.weight.detach(), "(qkv h k) d -> qkv h k d", qkv=3, h=heads)
        self.in_bias = rearrange(attention.qkv.bias.detach(), "(qkv h k) -> qkv h 1 1 k", qkv=3, h=heads)
        self.out_weight = rearrange(attention.out.weight.detach(), "d (h k) -> h k d", h=heads)

    def project(self, port: int, heads: list[int], reads: Tensor) -> Tensor:
        """Queries (port 0), keys (1) or values (2) ``(h, b, t, k)`` of ``heads`` from their reads ``(h, b, t, d)``."""
        weight, bias = self.in_weight[port, heads], self.in_bias[port, heads]
        return einsum(self.norm(reads), weight, "h b t d, h k d -> h b t k") + bias

    def write(self, heads: list[int], queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What ``heads`` add to the stream, ``(h, b, t, d)``; queries may stand for the first tokens only."""
        gathered = F.scaled_dot_product_attention(queries, keys, values)
        return einsum(gathered, self.out_weight[heads], "h b t k, h k d -> h b t d")


class MlpStage:
    """The neuron groups of one layer's MLP."""

    def __init__(self, model: ViT, layer: int, graph: Graph) -> None:
        mlp = model.blocks[layer].mlp
        assert mlp is not None
        self.norm = mlp.norm
        groups = graph.group_slices(layer)
        self.in_weights = [mlp.hidden.weight.detach()[group] for group in groups]
        self.in_biases = [mlp.hidden.bias.detach()[group] for group in groups]
        self.out_weights = [mlp.out.weight.detach()[:, group] for group in groups]

    def write(self, groups: list[int], reads: Tensor) -> Tensor:
        """What ``groups`` add to the stream, from their reads; both ``(groups, b, t, d)``."""
        written = [
            F.linear(F.gelu(F.linear(x, self.in_weights[group], self.in_biases[group])), self.out_weights[group])
            for group, x in zip(groups, self.norm(reads), strict=True)
        ]
        return torch.stack(written)


class Stages:
    """All stages of a model as a graph sees them, and the biases that belong to no node.

    Raises CircuitError if the graph is not one of this model.
    """

    def __init__(self, model: ViT, graph: Graph) -> None:
        graph.check(model)
        self.model, self.graph = model, graph
        self.heads = {2 * layer + 1: HeadStage(model, layer) for layer, heads in enumerate(graph.layer_heads) if heads}
        self.mlps = {
            2 * layer + 2: MlpStage(model, layer, graph) for layer, neurons in enumerate(graph.layer_neurons) if neurons
        }
        self.biases = self._biases()

    def _biases(self) -> list[Tensor]:
        """For each stage the sum of the biases that earlier stages added to the stream, ``(t, d)``."""
        total = torch.zeros_like(self.model.positions.detach())
        sums = [total]
        for block in self.model.blocks:
            for sublayer in (block.attention, block.mlp):
                sums.append(total)
                if sublayer is not None:
                    total = total + sublayer.out.bias.detach()
        return [*sums, total]

    def write(self, stage: int, reads: list[Tensor]) -> Tensor:
        """What all nodes of a stage add to the stream ``(nodes, b, t, d)``, from the reads of all its receivers."""
        if stage in self.mlps:
            return self.mlps[stage].write(list(range(len(reads))), torch.stack(reads))
        heads = self.heads[stage]
        ports = [reads[port::3] for port in range(3)] if self.graph.split_qkv else [reads] * 3
        everyone = list(range(len(ports[0])))
        return heads.write(everyone, *(heads.project(port, everyone, torch.stack(ports[port])) for port in range(3)))
