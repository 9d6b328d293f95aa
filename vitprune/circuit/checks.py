"""Checks of arguments and logits that every method makes before it starts."""

from __future__ import annotations

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.graph import Graph
from vitprune.circuit.masked import check_images
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT


def check_call(
    model: ViT, images: Tensor, graph: Graph | None, ablation: Ablation | None, batch_size: int | None
) -> tuple[Graph, Ablation]:
    """The graph and the ablation of a call, which default to ``Graph.of(model)`` and the mean over ``images``.

    Raises CircuitError if model, images, graph and ablation do not go together, or the model's logits are not finite.
    """
    check_images(model, images)
    if model.training:
        raise CircuitError("the model is in training mode: call model.eval() first, or dropout would blur the result")
    if batch_size is not None and batch_size < 1:
        raise CircuitError(f"batch_size must be at least 1, got {batch_size}")
    graph = graph or Graph.of(model)
    graph.check(model)
    ablation = ablation or Ablation.mean(model, images)
    ablation.check(model)
    return graph, ablation


def check_finite(logits: Tensor) -> None:
    """CircuitError unless the full model's logits are all finite."""
    if not logits.isfinite().all():
        raise CircuitError("the model's logits are not finite on these images: check its weights and the input")
