"""The recipe of the acdc stage: find the circuit of a trained model, and say what it keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitprune.circuit.circuit import Circuit, kept_of
from vitprune.circuit.discovery import ablation_of, discover_by_params, problem_by_params, rankings
from vitprune.circuit.engine.phase import SearchProgress
from vitprune.circuit.faithfulness import Faithfulness, FaithfulnessMeter
from vitprune.circuit.methods import Watch
from vitprune.circuit.metrics import kl_divergence
from vitprune.circuit.neurons import sort_neurons
from vitprune.circuit.options import AcdcOptions
from vitprune.circuit.problem import Problem
from vitprune.circuit.sample import question_sample, training_sample, validation_sample
from vitprune.core.compute.device import describe_machine
from vitprune.core.model import SavedModel
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.core.packed import PackedData
from vitprune.recipes.stability import FoundStability, find_stability

CURVE_IMAGES = 256
"""Validation images on which circuits of many sizes are measured."""

WatchSearch = Callable[[], AbstractContextManager[Callable[[SearchProgress], None] | None]]
WatchSamples = Callable[[], AbstractContextManager[Callable[[int, int], None] | None]]
"""Context managers that yield the callback for the progress of one piece of work."""


@dataclass(frozen=True, kw_only=True)
class FoundCircuit:
    """A circuit, the model it was found in, its metrics, and faithfulness curves for each ranking.

    The neurons of ``saved`` are sorted by importance. ``point`` is the circuit's own faithfulness. There are no curves
    if ``acdc.curves`` is false, and nothing is ``stable`` without ``acdc.bootstrap_samples``.
    """

    circuit: Circuit
    saved: SavedModel
    metrics: dict[str, Any]
    timing: dict[str, Any]
    point: Faithfulness
    curves: dict[str, list[Faithfulness]]
    stable: FoundStability | None


def find_circuit(
    packed: PackedData,
    baseline: SavedModel,
    options: AcdcOptions,
    device: torch.device,
    *,
    chosen: np.ndarray | None = None,
    watch_search: WatchSearch = nullcontext,
    watch_samples: WatchSamples = nullcontext,
    journal: Path | None = None,
) -> FoundCircuit:
    """Search ``baseline``, which is on ``device``, for its circuit; if params ask for it, measure how stable that is.

    ``chosen`` are the indices of the training images to search on, if ``acdc.images`` names them. ``journal`` is a file
    in which an interrupted search is kept, so that the next call goes on from there.
    """
    start = time.perf_counter()
    preprocessing = baseline.preprocessing
    sample = question_sample(packed, preprocessing, options, device, chosen)
    # Groups of neurons are the same whatever the question, so that circuits can be compared.
    general, _ = training_sample(packed, preprocessing, options.num_images, options.seed, device)
    reference, _ = training_sample(packed, preprocessing, options.num_reference_images, options.seed, device)
    model = sort_neurons(baseline.model, general, torch.Generator().manual_seed(options.seed))
    ablation = ablation_of(options, model, reference)
    problem = problem_by_params(options, model, sample, ablation)
    with watch_search() as on_progress:
        circuit = discover_by_params(options, problem, Watch(on_progress=on_progress, journal=journal))
    seconds = time.perf_counter() - start
    saved = replace(baseline, model=model)
    stable = None
    if options.bootstrap_samples is not None:
        with watch_samples() as on_sample:
            stable = find_stability(packed, saved, circuit, options, options.bootstrap_samples, chosen, on_sample)
        circuit = replace(circuit, frequency=stable.stability.frequency)

    full, masked = (
        predict(module, packed.val.images, preprocessing, device=device) for module in (model, circuit.as_module(model))
    )
    curves, point, faithfulness = _compare_rankings(options, circuit, saved, problem, packed, device)
    tested = sum(decision.action in ("removed", "kept") for decision in circuit.trace)
    return FoundCircuit(
        circuit=circuit,
        saved=saved,
        metrics=_counts(circuit)
        | {
            "method": options.method,
            "search_kl": circuit.kl,
            "search_images": len(sample.images),
            "val": {
                "baseline": score(full, packed.val.labels).as_metrics(),
                "circuit": score(masked, packed.val.labels).as_metrics() | {"kl": kl_divergence(full, masked)},
            },
            "faithfulness": faithfulness,
            "stability": stable.metrics if stable else None,
        },
        timing={"seconds": round(seconds, 2), "tests": tested, "machine": describe_machine(device)},
        point=point,
        curves=curves,
        stable=stable,
    )


def _counts(circuit: Circuit) -> dict[str, dict[str, int | float]]:
    """Edges and nodes in all and kept.

    ``on_paths`` counts the kept edges that lie on a path from ``embed`` to ``logits``. The others carry the output of
    nodes whose input is ablated, which is the same for every image. A node is kept if it lies on such a path.
    """
    graph, live = circuit.graph, set(circuit.live_nodes)
    edges = kept_of(len(graph.edges), len(circuit.kept)) | {"on_paths": len(circuit.closed().kept)}
    counts = {"edges": edges}
    for kind, name in (("head", "heads"), ("mlp", "mlp_groups")):
        nodes = [node.name for node in graph.nodes if node.kind == kind]
        counts[name] = kept_of(len(nodes), sum(node in live for node in nodes))
    return counts


def _compare_rankings(
    options: AcdcOptions,
    circuit: Circuit,
    saved: SavedModel,
    problem: Problem,
    packed: PackedData,
    device: torch.device,
) -> tuple[dict[str, list[Faithfulness]], Faithfulness, dict[str, Any]]:
    """Faithfulness on validation images: a curve for each ranking, the circuit's own, and figures for the metrics.

    For a question about some classes they are images of these.
    """
    sample = validation_sample(packed, saved.preprocessing, options, device, CURVE_IMAGES)
    meter = FaithfulnessMeter(saved.model, sample.images, sample.labels, circuit, sample.rivals)
    point, rest = meter.measure(circuit.keep_mask), meter.completeness(circuit)
    figures = {"images": len(sample.images), "circuit": point.as_row(), "without_the_circuit": rest.as_row()}
    if not options.curves:
        return {}, point, figures
    scores = rankings(options, circuit, problem)
    curves = {method: meter.curve(ranking) for method, ranking in scores.items()}
    scales = {method: vars(meter.common_scale(ranking)) for method, ranking in scores.items()}
    return curves, point, figures | {"common_scale": scales}
