"""From a circuit to a smaller dense model: dead heads and neurons are cut out of the weights.

Legend of dimensions: t tokens, d width of the stream, h heads, k width of a head, n neurons of a layer.

A node is dead when no path of kept edges leads through it from ``embed`` to ``logits``. Dead nodes are removed, and
their mean output moves into a bias. Edges that were removed between two live nodes are restored, because removing them
saves no time: the survivors read the dense stream. The compact model therefore computes exactly the circuit that keeps
every edge between live nodes (``dense_circuit``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.circuit import Circuit, kept_of
from vitprune.core.model.vit import Attention, Mlp, ViT, ViTConfig
from vitprune.pruning.fold import Fold


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """The heads ``(h,)`` and neurons ``(n,)`` of each layer that are kept, as increasing indices."""

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]


def survivors_of(circuit: Circuit) -> Survivors:
    """Heads and neurons that are on a path from ``embed`` to ``logits``."""
    graph = circuit.graph
    live = set(circuit.live_nodes)
    heads: list[list[int]] = [[] for _ in graph.layer_heads]
    neurons: list[list[int]] = [[] for _ in graph.layer_neurons]
    for node in graph.nodes:
        if node.name in live and node.kind == "head":
            heads[node.layer].append(node.index)
        elif node.name in live:
            group = graph.group_slices(node.layer)[node.index]
            neurons[node.layer] += range(group.start, group.stop)
    return Survivors(
        heads=tuple(torch.tensor(kept, dtype=torch.long) for kept in heads),
        neurons=tuple(torch.tensor(kept, dtype=torch.long) for kept in neurons),
    )


def dense_circuit(circuit: Circuit) -> Circuit:
    """The circuit that the compact model computes: every edge between ``embed``, live nodes and ``logits``."""
    graph, live = circuit.graph, {"embed", "logits", *circuit.live_nodes}
    sends = torch.tensor([sender.name in live for sender in graph.senders])
    reads = torch.tensor([receiver.node.name in live for receiver in graph.receivers])
    return replace(circuit, keep_mask=graph.all_edges & sends[None, :] & reads[:, None])


def compact(model: ViT, circuit: Circuit) -> ViT:
    """The dense model that is left of ``model`` without the circuit's dead nodes.

    Raises CircuitError if the circuit belongs to another model.
    """
    circuit.graph.check(model)
    return cut(model, survivors_of(circuit), Fold.mean(circuit.ablation, model))


@torch.no_grad()
def cut(model: ViT, survivors: Survivors, fold: Fold) -> ViT:
    """The dense model of the survivors; ``fold``, made for ``model``, moves what the others wrote into its weights."""
    config = replace(
        model.config,
        heads_per_layer=tuple(len(kept) for kept in survivors.heads),
        neurons_per_layer=tuple(len(kept) for kept in survivors.neurons),
        token_biases=fold.by_token,
    )
    small = ViT(config).to(model.positions)
    for name in ("patches", "norm", "classifier"):
        getattr(small, name).load_state_dict(getattr(model, name).state_dict())
    if small.class_token is not None and model.class_token is not None:
        small.class_token.copy_(model.class_token)

    # A constant that is added to the stream moves into the bias of the last surviving sublayer before it, or into the
    # positions: no surviving sublayer reads the stream in between.
    pending = model.positions.detach().clone()
    constants_of = small.positions
    for layer, (old, new) in enumerate(zip(model.blocks, small.blocks, strict=True)):
        is_short = layer >= config.first_short_layer
        for index, before, after, kept in (
            (2 * layer, old.attention, new.attention, survivors.heads[layer]),
            (2 * layer + 1, old.mlp, new.mlp, survivors.neurons[layer]),
        ):
            if before is None:
                continue
            folded = fold.of(index, kept, is_short=is_short)
            if isinstance(before, Attention) and isinstance(after, Attention):
                copy_heads(before, after, kept)
            elif isinstance(before, Mlp) and isinstance(after, Mlp):
                copy_neurons(before, after, kept)
            if after is not None:
                after.out.weight.copy_(folded.weight)
                constants_of.copy_(pending)
                constants_of, pending = after.out.bias, torch.zeros_like(after.out.bias)
            pending = pending + folded.bias
    constants_of.copy_(pending)
    return small.eval()


@torch.no_grad()
def copy_heads(old: Attention, new: Attention, kept: Tensor) -> None:
    """Give ``new`` the norm of ``old`` and what its heads ``kept (h,)`` read; the fold says what they write."""
    new.norm.load_state_dict(old.norm.state_dict())
    for name in ("weight", "bias"):
        by_head = rearrange(getattr(old.qkv, name), "(qkv h k) ... -> qkv h k ...", qkv=3, h=old.num_heads)
        getattr(new.qkv, name).copy_(rearrange(by_head[:, kept], "qkv h k ... -> (qkv h k) ..."))


@torch.no_grad()
def copy_neurons(old: Mlp, new: Mlp, kept: Tensor) -> None:
    """Give ``new`` the norm of ``old`` and what its neurons ``kept (n,)`` read; the fold says what they write."""
    new.norm.load_state_dict(old.norm.state_dict())
    new.hidden.weight.copy_(old.hidden.weight[kept])
    new.hidden.bias.copy_(old.hidden.bias[kept])


def removed_parts(before: ViTConfig, after: ViTConfig) -> dict[str, dict[str, int | float]]:
    """Heads, neurons and sublayers of two shapes of a model: in all, kept, and the share removed."""
    old, new = (*before.layer_heads, *before.layer_neurons), (*after.layer_heads, *after.layer_neurons)
    return {
        "heads": kept_of(sum(before.layer_heads), sum(after.layer_heads)),
        "neurons": kept_of(sum(before.layer_neurons), sum(after.layer_neurons)),
        "sublayers": kept_of(sum(count > 0 for count in old), sum(count > 0 for count in new)),
    }
