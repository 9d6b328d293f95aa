"""Run a discovery method, for Python users and by the params."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.engine.phase import SearchProgress
from vitprune.circuit.graph import Graph
from vitprune.circuit.methods import METHODS, Ranking, Watch, discovery_options, method_named
from vitprune.circuit.optimal import optimal_ablation
from vitprune.circuit.options import AcdcOptions
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.circuit.ranking import ranking_of
from vitprune.circuit.sample import Sample
from vitprune.core.model.vit import ViT
from vitprune.errors import CircuitError


def discover(
    model: ViT,
    images: Tensor,
    method: str = "acdc",
    *,
    labels: Tensor | None = None,
    rivals: Tensor | None = None,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
    journal: Path | None = None,
    **options: Any,
) -> Circuit:
    """Find the circuit of ``model``, in evaluation mode, on normalised ``images (b, c, height, width)``.

    ``method`` is a key of METHODS, and ``options`` are fields of DiscoveryOptions: ``tau`` for searches; ``tau`` or
    ``num_edges`` for rankings. ``graph`` defaults to ``Graph.of(model)``, ``ablation`` to the mean over ``images``, and
    ``labels (b,)`` to the model's own predictions, ``rivals (b,)`` of the logit difference to its strongest other
    classes. With ``journal`` a search writes its decisions to that file, and an
    interrupted one resumes from there.

    Raises CircuitError for options that do not suit the method, inputs that do not belong together, and logits that are
    not finite.
    """
    chosen, known = method_named(method), [option.name for option in fields(DiscoveryOptions)]
    if unknown := sorted(options.keys() - known):
        raise CircuitError(f"unknown options {', '.join(unknown)}; known are {', '.join(known)}")
    settings = DiscoveryOptions(**options)
    problem = Problem.of(model, images, labels=labels, rivals=rivals, graph=graph, ablation=ablation)
    return chosen.run(problem, settings, Watch(on_progress=on_progress, journal=journal))


def problem_by_params(params: AcdcOptions, model: ViT, sample: Sample, ablation: Ablation) -> Problem:
    """The problem that section ``acdc`` of the params puts, on the images of ``sample``."""
    graph = Graph.of(model, params.split_qkv, params.mlp_groups)
    return Problem(model, sample.images, sample.labels, graph, ablation, sample.rivals)


def discover_by_params(params: AcdcOptions, problem: Problem, watch: Watch | None = None) -> Circuit:
    """The circuit that section ``acdc`` of the params asks for."""
    return method_named(params.method).run(problem, discovery_options(params), watch or Watch())


def ablation_of(params: AcdcOptions, model: ViT, reference: Tensor) -> Ablation:
    """The ablation that the params ask for; ``reference (b, c, height, width)`` serves mean, optimal and resample."""
    match params.ablation:
        case "zero":
            return Ablation.zero(model)
        case "mean":
            return Ablation.mean(model, reference)
        case "optimal":
            graph = Graph.of(model, params.split_qkv, params.mlp_groups)
            return optimal_ablation(model, reference, graph, seed=params.seed)
        case "resample":
            return Ablation.resample(model, reference, params.seed)
        case "noise":
            return Ablation.noise(model, params.noise_std, params.seed)


def rankings(params: AcdcOptions, circuit: Circuit, problem: Problem) -> dict[str, Tensor]:
    """Scores ``(receivers, senders)`` of the found circuit and of every quick ranking by its default metric."""
    options = replace(discovery_options(params), metric=None, batch_size=None)
    scores = {
        method.name.replace("-", "_"): method.scores(problem, method.with_metric(options))
        for method in METHODS.values()
        if isinstance(method, Ranking) and method.is_quick
    }
    return {"found": ranking_of(circuit), **scores}
