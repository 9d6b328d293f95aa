"""Optimal ablation (Li and Janson 2024, arXiv 2409.09951): the constants whose place in a model costs the least.

Legend of dimensions: b images, t tokens, d width of the stream, h heads of a layer, k width of a head, n neurons.

A mean can lie where the model never is, and then harms by more than what is missing. The optimal constant of a node is
the one that, put in the place of its output in every image, moves the predictions the least.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import check_finite, run_whole
from vitprune.circuit.graph import Graph, Node
from vitprune.circuit.metrics import Reference, kl
from vitprune.core.compute.distributed import from_main
from vitprune.core.model.vit import ViT

STEPS = 400
BATCH_SIZE = 64
LEARNING_RATE = 0.02
"""Of the constants, in units of the standard deviation of what they stand for."""


def optimal_ablation(
    model: ViT, images: Tensor, graph: Graph, *, steps: int = STEPS, seed: int = 0, learning_rate: float = LEARNING_RATE
) -> Ablation:
    """Learn a constant for every node of ``graph`` on normalised ``images (b, c, height, width)``.

    They begin at the mean. In each step every image of a batch loses one node, drawn by ``seed``, and Adam lowers KL to
    the whole model. A node keeps its mean if what was learned costs more on these images. Raises CircuitError as
    ``Ablation.mean`` does.
    """
    mean = Ablation.mean(model, images)

    def learn() -> Ablation:
        return _on(_learn(model, images, graph, mean, steps, seed, learning_rate), torch.device("cpu"))

    # Ranks must not drift apart, so that one of them learns for all.
    return _on(from_main(learn), images.device)


def _on(ablation: Ablation, device: torch.device) -> Ablation:
    return replace(
        ablation,
        embed=ablation.embed.to(device),
        heads=tuple(heads.to(device) for heads in ablation.heads),
        neurons=tuple(neurons.to(device) for neurons in ablation.neurons),
    )


def _learn(
    model: ViT, images: Tensor, graph: Graph, mean: Ablation, steps: int, seed: int, learning_rate: float
) -> Ablation:
    generator = torch.Generator().manual_seed(seed)
    logits, scales = _observe(model, images)
    reference = Reference.of(logits)
    means = [mean.embed, *mean.heads, *mean.neurons]
    shifts = [torch.zeros_like(value).requires_grad_() for value in means]
    optimiser = torch.optim.Adam(shifts, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randperm(len(images), generator=generator)[:BATCH_SIZE]
        nodes = torch.randint(len(graph.senders), (len(chosen),), generator=generator).tolist()
        with torch.enable_grad():
            constants = [value + scale * shift for value, scale, shift in zip(means, scales, shifts, strict=True)]
            outcome = _without(model, images[chosen.to(images.device)], graph, constants, nodes)
            part = Reference.of(logits[chosen.to(logits.device)])
            loss = kl(outcome, part).mean()
            gradients = torch.autograd.grad(loss, shifts, allow_unused=True)
        for shift, gradient in zip(shifts, gradients, strict=True):
            shift.grad = gradient
        optimiser.step()
        schedule.step()
    learned = [value + scale * shift.detach() for value, scale, shift in zip(means, scales, shifts, strict=True)]
    layers = model.config.num_layers
    result = replace(
        mean,
        kind="optimal",
        embed=learned[0],
        heads=tuple(learned[1 : layers + 1]),
        neurons=tuple(learned[layers + 1 :]),
    )
    for node in range(len(graph.senders)):
        costs = [_cost(model, images, graph, values, node, reference) for values in (means, learned)]
        if not costs[1] <= costs[0]:
            _put_back(result, mean, graph, graph.senders[node])
    return result


@torch.no_grad()
def _observe(model: ViT, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The model's logits, and the standard deviation of what each sublayer computes, as scalars."""
    batches = [run_whole(model, batch) for batch in images.split(BATCH_SIZE)]
    logits = torch.cat([found for found, _ in batches])
    check_finite(logits)
    first = batches[0][1]
    values = [first.embed, *first.heads, *first.neurons]
    return logits, [value.std(dim=0, correction=0).mean() if value.numel() else value.new_ones(()) for value in values]


def _without(model: ViT, images: Tensor, graph: Graph, constants: list[Tensor], nodes: list[int]) -> Tensor:
    """Logits where each image has a constant in place of one node, a number among the senders."""
    layers = model.config.num_layers
    embed = model.embed(images)
    gone = torch.tensor([node == 0 for node in nodes], device=images.device)
    embed = torch.where(gone[:, None, None], constants[0], embed)
    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            if block.attention is not None:
                put = _Put(constants[1 + layer].transpose(0, 1).flatten(1), _mask(model, graph, nodes, 2 * layer + 1))
                stack.enter_context(put.before(block.attention.out))
            if block.mlp is not None:
                put = _Put(constants[1 + layers + layer], _mask(model, graph, nodes, 2 * layer + 2))
                stack.enter_context(put.before(block.mlp.out))
        return model.run(embed)


def _mask(model: ViT, graph: Graph, nodes: list[int], level: int) -> Tensor:
    """Which numbers of a sublayer's activations belong to the node that an image lacks, ``(b, 1, h k or n)``."""
    layer = (level - 1) // 2
    width = model.config.d_head * graph.layer_heads[layer] if level % 2 else graph.layer_neurons[layer]
    mask = torch.zeros(len(nodes), 1, width, dtype=torch.bool, device=model.positions.device)
    for image, number in enumerate(nodes):
        node = graph.senders[number]
        if node.level == level:
            mask[image, :, _numbers(model, graph, node)] = True
    return mask


def _numbers(model: ViT, graph: Graph, node: Node) -> slice:
    """The numbers of a node among the activations of its sublayer."""
    if node.kind == "mlp":
        return graph.group_slices(node.layer)[node.index]
    width = model.config.d_head
    return slice(node.index * width, (node.index + 1) * width)


@dataclass(frozen=True)
class _Put:
    """Puts ``constant (t, width)`` in place of activations where ``mask (b, 1, width)`` is True."""

    constant: Tensor
    mask: Tensor

    @contextmanager
    def before(self, module: nn.Module) -> Iterator[None]:
        """Do so with what the module is given."""
        handle = module.register_forward_pre_hook(self._replace)
        try:
            yield
        finally:
            handle.remove()

    def _replace(self, _: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (activations,) = given
        return (torch.where(self.mask, self.constant[: activations.shape[1]], activations),)


@torch.no_grad()
def _cost(model: ViT, images: Tensor, graph: Graph, constants: list[Tensor], node: int, reference: Reference) -> float:
    """KL in nats, mean over the images, with a constant in place of a node."""
    logits = torch.cat(
        [_without(model, batch, graph, constants, [node] * len(batch)) for batch in images.split(BATCH_SIZE)]
    )
    return float(kl(logits.cpu().double(), reference).mean())


def _put_back(result: Ablation, mean: Ablation, graph: Graph, node: Node) -> None:
    """Give a node its mean again."""
    if node.kind == "embed":
        result.embed.copy_(mean.embed)
    elif node.kind == "head":
        result.heads[node.layer][node.index] = mean.heads[node.layer][node.index]
    else:
        group = graph.group_slices(node.layer)[node.index]
        result.neurons[node.layer][:, group] = mean.neurons[node.layer][:, group]
