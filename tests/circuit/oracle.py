"""Brute force: circuits evaluated one receiver at a time, with nothing cached and nothing clever.

Shares no arithmetic with ``vitprune.circuit`` but the names in the graph, so that agreement means something.
"""

import math
import re
from dataclasses import replace

import torch
from torch.nn import functional as F

from vitprune.circuit import Ablation, Graph
from vitprune.core.model import ViT, ViTConfig
from vitprune.core.model.vit import Record


def random_model(seed=0, *, dtype=torch.float64, scale=30.0, **changes) -> ViT:
    """A small ViT with weights large enough for every part to matter."""
    shape = {
        "image_size": 4,
        "patch_size": 2,
        "in_channels": 1,
        "num_classes": 3,
        "d_model": 8,
        "num_layers": 2,
        "num_heads": 2,
        "d_mlp": 12,
    }
    model = ViT(ViTConfig(**shape | changes)).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    model.initialise(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
            else:
                parameter *= scale
    return model


def random_images(model: ViT, count=6, seed=100) -> torch.Tensor:
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    shape = (count, config.in_channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=generator, dtype=model.positions.dtype)


def _neurons_of(model, layer, group, groups):
    if group is None:
        return slice(None)
    count = model.config.layer_neurons[layer]
    groups = min(groups, count)
    return slice(count * group // groups, count * (group + 1) // groups)


def _write_of(model, values, sender: str, groups: int):
    """What a sender adds to the stream, from ``values``: the embedding, and all heads' and neurons' activations."""
    embed, heads, neurons = values
    if sender == "embed":
        return embed
    if match := re.fullmatch(r"a(\d+)\.h(\d+)", sender):
        layer, head = map(int, match.groups())
        width = model.config.d_head
        return heads[layer][head] @ model.blocks[layer].attention.out.weight[:, head * width : (head + 1) * width].T
    match = re.fullmatch(r"m(\d+)(?:\.g(\d+))?", sender)
    layer = int(match[1])
    mine = _neurons_of(model, layer, None if match[2] is None else int(match[2]), groups)
    return neurons[layer][..., mine] @ model.blocks[layer].mlp.out.weight[:, mine].T


def _values(model, ablation: Ablation, images):
    """Ablated ``embed``, ``heads`` and ``neurons``, from the model itself where they differ from image to image."""
    if ablation.kind in ("zero", "mean", "optimal"):
        return ablation.embed, ablation.heads, ablation.neurons
    if ablation.kind == "resample":
        sources = torch.stack([ablation.sources[index % len(ablation.sources)] for index in range(len(images))])
    else:
        noises = [
            torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(ablation.seed * 1_000_003 + index))
            for index in range(len(images))
        ]
        sources = images + ablation.std * torch.stack(noises).to(images)
    record = Record("heads", "neurons")
    embed = model.embed(sources)
    model.run(embed, record)
    layers = range(model.config.num_layers)
    heads = [record[layer, "heads"].transpose(0, 1) if (layer, "heads") in record else [] for layer in layers]
    return embed, heads, [record.get((layer, "neurons")) for layer in layers]


def brute_metric(name, labels):
    """A metric of logits against the full model's: lower is better."""

    def measure(logits, full):
        rows = torch.arange(len(labels))
        if name == "cross-entropy":
            return -logits.log_softmax(-1)[rows, labels].mean().item()
        if name == "accuracy":
            return 1 - (logits.argmax(-1) == labels).double().mean().item()
        others = full.clone()
        others[rows, labels] = -math.inf
        return (logits[rows, others.argmax(-1)] - logits[rows, labels]).mean().item()

    return measure


@torch.no_grad()
def ablated_writes(model: ViT, images, graph: Graph, ablation: Ablation):
    """What every sender adds to the stream when it is removed, by its name."""
    values = _values(model, ablation, images)
    return {sender.name: _write_of(model, values, sender.name, graph.mlp_groups) for sender in graph.senders}


def brute_writes(model: ViT, images) -> dict:
    """What each head and MLP of the whole model adds to the stream, by its name in the graph."""
    return ablated_writes(model, images, Graph.of(model), replace(Ablation.resample(model, images), sources=images))


@torch.no_grad()
def brute_logits(model: ViT, images, graph: Graph, kept: set, ablation: Ablation, ablated=None, embed=None):
    """Logits of the circuit that keeps exactly the edges in ``kept``; ``ablated`` may be given to save time.

    ``embed`` may take the place of the images' embedding.
    """
    config = model.config
    width = config.d_head
    written = {"embed": model.embed(images) if embed is None else embed}
    ablated = ablated or ablated_writes(model, images, graph, ablation)
    biases = torch.zeros(config.num_tokens, config.d_model, dtype=images.dtype)
    earlier = ["embed"]

    def read(receiver):
        total = biases.expand(len(images), -1, -1).clone()
        for sender in earlier:
            total += written[sender] if (sender, receiver) in kept else ablated[sender]
        return total

    for layer, block in enumerate(model.blocks):
        new = []
        for head in range(config.layer_heads[layer]):
            name = f"a{layer}.h{head}"
            parts = []
            for port in range(3):
                stream = read(f"{name}.{'qkv'[port]}" if graph.split_qkv else name)
                start = (port * config.layer_heads[layer] + head) * width
                weight = block.attention.qkv.weight[start : start + width]
                parts.append(block.attention.norm(stream) @ weight.T + block.attention.qkv.bias[start : start + width])
            query, key, value = parts
            pattern = (query @ key.transpose(1, 2) / math.sqrt(width)).softmax(-1)
            written[name] = pattern @ value @ block.attention.out.weight[:, head * width : (head + 1) * width].T
            new.append(name)
        if block.attention is not None:
            biases = biases + block.attention.out.bias
        earlier = earlier + new
        new = []
        groups = min(graph.mlp_groups, config.layer_neurons[layer])
        for group in range(groups):
            name = f"m{layer}" if graph.mlp_groups == 1 else f"m{layer}.g{group}"
            mine = _neurons_of(model, layer, None if graph.mlp_groups == 1 else group, graph.mlp_groups)
            mlp = block.mlp
            hidden = F.gelu(mlp.norm(read(name)) @ mlp.hidden.weight[mine].T + mlp.hidden.bias[mine])
            written[name] = hidden @ mlp.out.weight[:, mine].T
            new.append(name)
        if block.mlp is not None:
            biases = biases + block.mlp.out.bias
        earlier = earlier + new
    last = model.norm(read("logits"))
    return model.classifier(last.mean(1) if config.pooling == "mean" else last[:, 0])


def brute_kl(model, images, graph, kept, ablation, full, ablated=None):
    return _kl(brute_logits(model, images, graph, kept, ablation, ablated), full)


def _kl(logits, full):
    return (full.softmax(-1) * (full.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean().item()


def _has_path(graph: Graph, kept: set, node: str) -> bool:
    """Whether ``node`` reaches the logits, by walking the kept edges."""
    seen, frontier = set(), [node]
    while frontier:
        here = frontier.pop()
        for sender, receiver in kept:
            if sender == here and receiver not in seen:
                seen.add(receiver)
                if receiver == "logits":
                    return True
                frontier.append(re.sub(r"\.[qkv]$", "", receiver))
    return False


def brute_acdc(
    model: ViT, images, graph: Graph, ablation: Ablation, tau: float, granularity: str, metric=None, denoising=False
) -> set:
    """The edges that ACDC keeps, found with one whole masked forward pass per candidate.

    Denoising starts from the ablated embedding; edges that are left out carry what the whole model computes.
    """

    def damage(kept):
        logits = brute_logits(model, images, graph, kept, ablation, ablated, embed)
        return sign * (metric or _kl)(logits, full)

    full = model(images).detach()
    ablated, embed, sign = ablated_writes(model, images, graph, ablation), None, 1
    if denoising:
        embed, sign = _values(model, ablation, images)[0], -1
        ablated = ablated_writes(model, images, graph, replace(Ablation.resample(model, images), sources=images))
    kept = set(graph.edges)
    receivers = list(dict.fromkeys(receiver for _, receiver in graph.edges))
    senders = list(dict.fromkeys(sender for sender, _ in graph.edges))
    order = {name: index for index, name in enumerate([node.name for node in graph.nodes])}
    senders.sort(key=order.__getitem__)
    current = damage(kept)

    def attempt(candidates):
        nonlocal current
        kl = damage(kept - candidates)
        if kl - current < tau:
            kept.difference_update(candidates)
            current = kl

    if granularity != "edge":
        for node in reversed(senders[1:]):
            outgoing = {edge for edge in kept if edge[0] == node}
            if not _has_path(graph, kept, node):
                kept.difference_update(outgoing)
            elif outgoing:
                attempt(outgoing)
            if not any(sender == node for sender, _ in kept):
                kept.difference_update({edge for edge in kept if re.sub(r"\.[qkv]$", "", edge[1]) == node})
    if granularity != "node":
        for receiver in reversed(receivers):
            node = re.sub(r"\.[qkv]$", "", receiver)
            live = node == "logits" or _has_path(graph, kept, node)
            for sender in reversed(senders):
                if (sender, receiver) in kept:
                    if live:
                        attempt({(sender, receiver)})
                    else:
                        kept.discard((sender, receiver))
    return kept
