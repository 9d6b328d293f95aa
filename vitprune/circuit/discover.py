"""The method that the params name, run with the params' options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.acdc import acdc
from vitprune.circuit.activation_baseline import activation, activation_scores
from vitprune.circuit.attribution import attribute
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.eap import eap
from vitprune.circuit.eap_ig import eap_ig, eap_ig_scores
from vitprune.circuit.engine.search import SearchProgress
from vitprune.circuit.graph import Graph
from vitprune.circuit.hybrid import hybrid
from vitprune.circuit.metrics import cross_entropy
from vitprune.circuit.options import AcdcOptions
from vitprune.circuit.random_baseline import random, random_scores
from vitprune.circuit.ranking import ranking_of
from vitprune.model.vit import ViT


def ablation_of(options: AcdcOptions, model: ViT, reference: Tensor) -> Ablation:
    """The ablation that the params ask for; ``reference (b, c, height, width)`` serves mean and resample."""
    match options.ablation:
        case "zero":
            return Ablation.zero(model)
        case "mean":
            return Ablation.mean(model, reference)
        case "resample":
            return Ablation.resample(model, reference, options.seed)
        case "noise":
            return Ablation.noise(model, options.noise_std, options.seed)


def discover(
    options: AcdcOptions,
    model: ViT,
    images: Tensor,
    labels: Tensor,
    ablation: Ablation,
    *,
    on_progress: Callable[[SearchProgress], None] | None = None,
    journal: Path | None = None,
) -> Circuit:
    """The circuit of ``model`` by ``options.method``.

    ``acdc`` and ``hybrid`` go by ``options.tau``; the others keep ``options.num_edges`` edges, or those whose score is
    at least ``options.tau``. Raises CircuitError as these do.
    """
    graph = Graph.of(model, options.split_qkv, options.mlp_groups)
    metric, tau, batch_size = options.metric, options.tau, options.batch_size
    threshold = tau if options.num_edges is None else None
    match options.method:
        case "acdc":
            return acdc(
                model,
                images,
                tau=tau,
                graph=graph,
                ablation=ablation,
                granularity=options.granularity,
                metric=metric,
                labels=labels,
                batch_size=batch_size,
                on_progress=on_progress,
                journal=journal,
            )
        case "hybrid":
            return hybrid(
                model,
                images,
                tau=tau,
                graph=graph,
                ablation=ablation,
                granularity=options.granularity,
                metric=metric,
                labels=labels,
                steps=options.steps,
                batch_size=batch_size,
                on_progress=on_progress,
                journal=journal,
            )
        case "eap":
            return eap(
                model,
                images,
                graph=graph,
                ablation=ablation,
                metric=metric,
                labels=labels,
                threshold=threshold,
                num_edges=options.num_edges,
                batch_size=batch_size,
            )
        case "eap-ig":
            return eap_ig(
                model,
                images,
                graph=graph,
                ablation=ablation,
                metric=metric,
                labels=labels,
                steps=options.steps,
                threshold=threshold,
                num_edges=options.num_edges,
                batch_size=batch_size,
            )
        case "activation":
            return activation(
                model,
                images,
                graph=graph,
                ablation=ablation,
                threshold=threshold,
                num_edges=options.num_edges,
                batch_size=batch_size,
            )
        case "random":
            return random(
                model,
                images,
                graph=graph,
                ablation=ablation,
                seed=options.seed,
                threshold=threshold,
                num_edges=options.num_edges,
            )


def rankings(options: AcdcOptions, circuit: Circuit, model: ViT, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The found circuit's scores and those of the cheap methods, each ``(receivers, senders)``, to be compared."""
    graph, ablation = circuit.graph, circuit.ablation
    return {
        "found": ranking_of(circuit),
        "eap": attribute(model, images, graph, ablation, cross_entropy, labels, (1.0,)),
        "eap_ig": eap_ig_scores(model, images, graph, ablation, "kl", labels, options.steps),
        "activation": activation_scores(model, images, graph, ablation),
        "random": random_scores(graph, options.seed),
    }
