"""The arithmetic of a level of a circuit, where every receiver reads a stream of its own.

Legend of dimensions:
    b  images    t  tokens    d  width of the stream    h  heads    k  width of a head    r  receivers    g  groups
    n  neurons of the largest group; smaller groups are filled up with neurons that do nothing

A level first projects what its receivers read. From the projections its nodes compute their activations (a head's
gathered values, a group's neurons), which ``send`` maps to what the nodes add to the stream.

Every reader of the stream applies a layer norm, which ignores a constant that is added to all d numbers. Therefore
everything written here is centred, and a norm is a division by the root mean square. The norm's scale and shift are
folded into the projections.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitprune.circuit.activations import Activations
from vitprune.circuit.graph import Graph
from vitprune.core.model.vit import NORM_EPS, ViT


def centred(x: Tensor) -> Tensor:
    """``x`` minus its mean over the last dimension, the width of the stream."""
    return x - x.mean(dim=-1, keepdim=True)


def project(reads: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Norm and projection of what receivers read, ``(r or 1, m, d), (r, d, width), (r, 1, width) -> (r, m, width)``.

    The reads are centred. A single one is shared by all receivers.
    """
    squares = torch.linalg.vector_norm(reads, dim=-1, keepdim=True).square_()
    scale = squares.mul_(1 / reads.shape[-1]).add_(NORM_EPS).rsqrt_()
    if len(reads) == len(weight):
        projected = torch.bmm(reads, weight)
    else:
        joined = reads[0] @ rearrange(weight, "r d w -> d (r w)")
        projected = rearrange(joined, "m (r w) -> r m w", r=len(weight)).contiguous()
    return torch.addcmul(bias, projected, scale)


class Level:
    """What heads and neuron groups have in common.

    ``in_weight (r, d, width)``, ``in_bias (r, 1, width)`` and ``out_weight (nodes, k or n, d)``.
    """

    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor

    def __init__(self, norm: nn.LayerNorm, in_weight: Tensor, in_bias: Tensor, out_weight: Tensor) -> None:
        self.in_weight = (in_weight * norm.weight.detach()[:, None]).contiguous()
        self.in_bias = in_bias + (norm.bias.detach() @ in_weight)[:, None]
        self.out_weight = centred(out_weight).contiguous()


class HeadLevel(Level):
    """The heads of one layer. Split receivers are ordered head by head: q, k, v of the first, then of the second, …"""

    def __init__(self, model: ViT, layer: int, graph: Graph) -> None:
        attention = model.blocks[layer].attention
        assert attention is not None
        self.split = graph.split_qkv
        heads = attention.num_heads
        pattern = "(qkv h k) d -> (h qkv) d k" if self.split else "(qkv h k) d -> h d (qkv k)"
        in_weight = rearrange(attention.qkv.weight.detach(), pattern, qkv=3, h=heads)
        pattern = "(qkv h k) -> (h qkv) 1 k" if self.split else "(qkv h k) -> h 1 (qkv k)"
        in_bias = rearrange(attention.qkv.bias.detach(), pattern, qkv=3, h=heads)
        out_weight = rearrange(attention.out.weight.detach(), "d (h k) -> h k d", h=heads)
        super().__init__(attention.norm, in_weight, in_bias, out_weight)

    @staticmethod
    def activate(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The values that heads gather, ``(h, b, t, k)``, for as many tokens as there are queries."""
        return F.scaled_dot_product_attention(queries, keys, values)


class MlpLevel(Level):
    """The neuron groups of one layer's MLP."""

    def __init__(self, model: ViT, layer: int, graph: Graph) -> None:
        mlp = model.blocks[layer].mlp
        assert mlp is not None
        self.groups = graph.group_slices(layer)
        self.width = max(group.stop - group.start for group in self.groups)
        in_weight = torch.stack([self._fill(mlp.hidden.weight.detach()[group]).T for group in self.groups])
        in_bias = torch.stack([self._fill(mlp.hidden.bias.detach()[group, None]).T for group in self.groups])
        out_weight = torch.stack([self._fill(mlp.out.weight.detach()[:, group].T) for group in self.groups])
        super().__init__(mlp.norm, in_weight, in_bias, out_weight)

    def _fill(self, weight: Tensor) -> Tensor:
        """The rows of a group, padded with zeros to the size of the largest group."""
        return F.pad(weight, (0, 0, 0, self.width - len(weight)))

    def grouped(self, neurons: Tensor) -> Tensor:
        """Activations ``(b, t, neurons)`` of the whole MLP, group by group: ``(g, b, t, n)``."""
        return torch.stack(
            [F.pad(neurons[..., group], (0, self.width - (group.stop - group.start))) for group in self.groups]
        )

    @staticmethod
    def activate(projections: Tensor) -> Tensor:
        """Activations of neurons from their projections."""
        return F.gelu(projections)


class Levels:
    """All levels of a model as a graph sees them, and the biases that belong to no node.

    Raises CircuitError if the graph is not one of this model.
    """

    def __init__(self, model: ViT, graph: Graph) -> None:
        graph.check(model)
        self.model, self.graph = model, graph
        self.heads = {
            2 * layer + 1: HeadLevel(model, layer, graph) for layer, heads in enumerate(graph.layer_heads) if heads
        }
        self.mlps = {
            2 * layer + 2: MlpLevel(model, layer, graph) for layer, neurons in enumerate(graph.layer_neurons) if neurons
        }
        self.biases = [centred(bias) for bias in self._biases()]
        self.class_token_from = max(self.heads, default=0) if graph.pooling == "class" else graph.last_level + 1
        """From this level on, nodes write to the class token alone, because no later level reads another token.

        It is the last level with heads. With mean pooling every level writes to all tokens.
        """

    def __getitem__(self, level: int) -> HeadLevel | MlpLevel:
        return self.mlps[level] if level in self.mlps else self.heads[level]

    def _biases(self) -> list[Tensor]:
        """For each level the sum of the biases that earlier levels add to the stream, ``(t, d)``."""
        total = torch.zeros_like(self.model.positions.detach())
        sums = [total]
        for block in self.model.blocks:
            for sublayer in (block.attention, block.mlp):
                sums.append(total)
                if sublayer is not None:
                    total = total + sublayer.out.bias.detach()
        return [*sums, total]

    def reads_tokens(self, level: int, port: str) -> int | None:
        """How many tokens of the stream a receiver needs: 1, the class token, or None for all of them."""
        return 1 if level > self.class_token_from or (level == self.class_token_from and port == "q") else None

    def by_level(self, activations: Activations) -> list[Tensor]:
        """Activations by level: the centred ``embed (1, b, t, d)``, then the nodes', ``(nodes, b, t, k or n)``."""
        embed = activations.embed
        levels = [centred(embed)[None]]
        for level in range(1, self.graph.last_level):
            layer = (level - 1) // 2
            if level in self.mlps:
                levels.append(self.mlps[level].grouped(activations.neurons[layer]))
            else:
                levels.append(activations.heads[layer] if level in self.heads else embed[None, :, :, :0][:0])
        return levels

    def project(self, level: int, streams: Tensor, which: Tensor) -> Tensor:
        """Projections ``(r, b, t, width)`` of a level's receivers; receiver i reads ``streams[which[i]]``."""
        nodes, flat = self[level], rearrange(streams, "r b t d -> r (b t) d")
        projections = project(flat if len(flat) == 1 else flat[which], nodes.in_weight, nodes.in_bias)
        return projections.view(len(which), *streams.shape[1:3], -1)

    def activate(self, level: int, projections: Tensor) -> Tensor:
        """Activations ``(nodes, b, t, k or n)`` of all nodes of a level from its receivers' projections.

        From ``class_token_from`` on they are those of the class token alone.
        """
        nodes = self[level]
        if isinstance(nodes, MlpLevel):
            return nodes.activate(projections)
        if nodes.split:
            queries, keys, values = rearrange(projections, "(h qkv) b t k -> qkv h b t k", qkv=3)
        else:
            queries, keys, values = projections.chunk(3, dim=-1)
        return nodes.activate(queries[:, :, :1] if level == self.class_token_from else queries, keys, values)

    def send(self, level: int, activations: Tensor) -> Tensor:
        """What all nodes of a level add to the stream, ``(nodes, b, t, d)``."""
        sent = torch.bmm(rearrange(activations, "n b t k -> n (b t) k"), self[level].out_weight)
        return sent.view(*activations.shape[:3], -1)

    def send_all(self, activations: list[Tensor]) -> Tensor:
        """What every sender adds to the stream, ``(senders, b, t, d)``, from the activations of each level."""
        sent = [self.send(level, nodes) for level, nodes in enumerate(activations) if level and len(nodes)]
        return torch.cat([activations[0], *sent])
