"""Sort the neurons of each MLP by importance, so that neighbours form groups that are kept or dropped together.

Legend of dimensions: b images, t tokens, n neurons of a layer.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from vitprune.circuit.masked import check_images
from vitprune.core.model.predict import evaluation_mode
from vitprune.core.model.vit import Record, ViT

LABEL_DRAWS = 4
"""Labels drawn for each image; more sharpen the estimate and cost a backward pass each."""
BATCH_SIZE = 128


def neuron_importance(model: ViT, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """An estimate, for each layer, of the KL in nats that it costs to replace each neuron by its mean, ``(n,)``.

    To second order, KL(p ‖ q) after a change δ of activations is ½ E over labels y ~ p of (∂log p(y)·δ)², the Fisher
    information along δ (Theis et al. 2018, arXiv 1801.05787). Here δ runs from a neuron's activations on an image to
    their mean over the images, at all tokens at once. The labels are drawn from the model's predictions.
    """
    check_images(model, images)
    batches = images.split(BATCH_SIZE)
    totals = [torch.zeros(neurons, device=images.device) for neurons in model.config.layer_neurons]
    means: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            sums = [neurons.sum(dim=0) for neurons in _logits_and_neurons(model, batch)[1]]
            means = [total + new for total, new in zip(means, sums, strict=True)] if means else sums
    means = [mean / len(images) for mean in means]
    layers = [layer for layer, block in enumerate(model.blocks) if block.mlp is not None]
    for batch in batches:
        with torch.enable_grad():
            logits, activations = _logits_and_neurons(model, batch)
            log_probabilities = logits.log_softmax(dim=-1)
        # Drawn on the CPU, so that every device sees the same labels.
        labels = torch.multinomial(log_probabilities.detach().exp().cpu(), LABEL_DRAWS, True, generator=generator)
        for drawn in labels.to(images.device).unbind(dim=1):
            score = log_probabilities.gather(1, drawn[:, None]).sum()
            gradients = torch.autograd.grad(score, activations, retain_graph=True) if activations else ()
            for layer, mean, neurons, gradient in zip(layers, means, activations, gradients, strict=True):
                change = (gradient * (mean - neurons.detach())).sum(dim=1)
                totals[layer] += 0.5 * change.square().sum(dim=0).float() / (LABEL_DRAWS * len(images))
    return tuple(totals)


def sort_neurons(model: ViT, images: Tensor, generator: torch.Generator) -> ViT:
    """A copy of ``model``, the same function, with the neurons of each MLP in falling order of importance."""
    model = copy.deepcopy(model)
    for block, importance in zip(model.blocks, neuron_importance(model, images, generator), strict=True):
        if block.mlp is not None:
            order = torch.argsort(importance, descending=True, stable=True)
            with torch.no_grad():
                block.mlp.hidden.weight.copy_(block.mlp.hidden.weight[order].clone())
                block.mlp.hidden.bias.copy_(block.mlp.hidden.bias[order].clone())
                block.mlp.out.weight.copy_(block.mlp.out.weight[:, order].clone())
    return model


def _logits_and_neurons(model: ViT, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the activations ``(b, t, n)`` of each MLP that the model has."""
    record = Record("neurons")
    with evaluation_mode(model):
        logits = model.run(model.embed(images), record)
    return logits, list(record.values())
