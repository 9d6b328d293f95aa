"""A bench of circuits in vision models: every method on planted circuits and on trained models.

    python benchmarks/vision_circuits.py [--pipeline FOLDER ...]

The planted models are those of benchmarks/planted.py, three seeds each: their true edges are known, so that a ranking
has an area under the ROC curve (AUROC), and a search finds them exactly or does not. The trained models are that of
benchmarks/discovery_speed.py and those of finished pipelines; rankings are measured on images that no method saw. CPR
and CMD are those of the benchmark MIB. Every cell is kept in benchmarks/.work/vision_circuits, so that the benchmark
can be stopped and goes on. About half an hour on two cores; writes benchmarks/results/vision_circuits.md and .png.
"""

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from discovery_models import ROOT, WORK, machine, trained
from planted import DESIGNS, Planted, garden
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vitprune.circuit import Ablation, Circuit, discover
from vitprune.circuit.faithfulness import FaithfulnessMeter
from vitprune.circuit.problem import Problem
from vitprune.circuit.ranking import ranking_of
from vitprune.circuit.sample import normalised, training_sample
from vitprune.core.model import load_model
from vitprune.core.packed import load_packed
from vitprune.params import load_params
from vitprune.report.drawing import drawn

TARGET = ROOT / "benchmarks" / "results" / "vision_circuits.md"
SEEDS = (0, 1, 2)
TAU = 1e-3
SEARCHES = ("acdc, noising", "acdc, denoising", "acdc, both", "hybrid")
RUNS: dict[str, dict[str, Any]] = {
    "acdc, noising": {"method": "acdc", "tau": TAU},
    "acdc, denoising": {"method": "acdc", "tau": TAU, "direction": "denoising"},
    "acdc, both": {"method": "acdc", "tau": TAU, "direction": "both"},
    "hybrid": {"method": "hybrid", "tau": TAU},
    "eap, cross-entropy": {"method": "eap"},
    "eap, logit difference": {"method": "eap", "metric": "logit-difference"},
    "eap-ig": {"method": "eap-ig"},
    "eap-ig-activations": {"method": "eap-ig-activations"},
    "relp": {"method": "relp"},
    "edge-pruning": {"method": "edge-pruning"},
    "ensemble": {"method": "ensemble"},
    "activation": {"method": "activation"},
    "random": {"method": "random"},
}


@dataclass(frozen=True, kw_only=True)
class Given:
    """A trained model, the images that methods see, and others by which their rankings are measured."""

    name: str
    problem: Problem
    held_out: tuple[Tensor, Tensor]
    tau: float


def cached(key: str, work: Any) -> dict[str, Any]:
    path = WORK / "vision_circuits" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        found = work()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def ranking(circuit: Circuit) -> Tensor:
    """Scores of all edges; those of a search rank its circuit first."""
    return ranking_of(circuit) if circuit.trace else circuit.scores


def timed(problem: Problem, run: dict[str, Any], tau: float) -> tuple[Circuit, float]:
    options = dict(run) if "tau" in run else run | {"num_edges": math.ceil(0.05 * len(problem.graph.edges))}
    if "tau" in run:
        options["tau"] = tau
    start = time.perf_counter()
    circuit = discover(
        problem.model,
        problem.images,
        labels=problem.labels,
        graph=problem.graph,
        ablation=problem.ablation,
        **options,
    )
    return circuit, time.perf_counter() - start


def on_planted(planted: Planted, run: dict[str, Any]) -> dict[str, Any]:
    problem = Problem(planted.model, planted.images, planted.labels, planted.graph, planted.ablation)
    circuit, seconds = timed(problem, run, TAU)
    scores, edges = ranking(circuit), planted.graph.all_edges
    truth = [edge in planted.true_edges for edge in planted.graph.edges]
    scale = FaithfulnessMeter(planted.model, planted.images, planted.labels, circuit).common_scale(scores)
    return vars(scale) | {
        "auroc": float(roc_auc_score(truth, scores[edges].abs().numpy())),
        "exact": set(circuit.kept) == planted.true_edges if circuit.trace else None,
        "seconds": seconds,
    }


def on_trained(given: Given, run: dict[str, Any]) -> dict[str, Any]:
    circuit, seconds = timed(given.problem, run, given.tau)
    meter = FaithfulnessMeter(given.problem.model, *given.held_out, circuit)
    own = meter.measure(circuit.keep_mask)
    return vars(meter.common_scale(ranking(circuit))) | {
        "seconds": seconds,
        "edges": int(circuit.keep_mask.sum()) if circuit.trace else None,
        "accuracy": own.accuracy if circuit.trace else None,
        "kl": own.kl if circuit.trace else None,
    }


def small() -> Given:
    model = trained("small")
    problem = Problem.of(
        model.model,
        model.images[:256],
        labels=model.labels[:256],
        ablation=Ablation.mean(model.model, model.images[:512]),
    )
    held_out = (model.images[768:1024], model.labels[768:1024])
    return Given(name="digits, 6 layers", problem=problem, held_out=held_out, tau=TAU)


def pipeline(folder: Path) -> Given:
    params, packed = load_params(folder / "params.yaml"), load_packed(folder / "data/clean")
    circuit, saved = Circuit.load(folder / "models/circuit"), load_model(folder / "models/circuit/model")
    device = torch.device("cpu")
    images, labels = training_sample(packed, saved.preprocessing, params.acdc.num_images, params.acdc.seed, device)
    chosen = np.arange(min(256, len(packed.val)))
    return Given(
        name=f"{params.data.source}, {len(circuit.graph.layer_heads)} layers, neuron groups",
        problem=Problem(saved.model, images, labels, circuit.graph, circuit.ablation),
        held_out=normalised(packed.val, chosen, saved.preprocessing, device),
        tau=params.acdc.tau,
    )


def planted_rows() -> tuple[list[str], dict[str, dict[str, float]]]:
    """The rows of the table over all planted models, and AUROC by method and design for the figure."""
    gardens = {seed: garden(seed) for seed in SEEDS}
    rows, by_design = [], {}
    for name, run in RUNS.items():
        cells: dict[int, list[dict[str, Any]]] = {}
        designs: dict[str, list[float]] = {}
        for seed, planted in gardens.items():
            for each in planted:
                sys.stderr.write(f"{name}: {each.name}, seed {seed}\n")
                key = f"{name} {run} {each.name} {seed}"
                cell = cached(key, lambda each=each, run=run, seed=seed: on_planted(each, run | {"seed": seed}))
                cells.setdefault(seed, []).append(cell)
                designs.setdefault(each.name.split(":")[0], []).append(cell["auroc"])
        by_design[name] = {design: statistics.mean(values) for design, values in designs.items()}
        exact = [cell["exact"] for each in cells.values() for cell in each]
        found = "–" if exact[0] is None else f"{sum(exact)} of {len(exact)}"
        rows.append(
            f"| {name} | {spread(cells, 'auroc')} | {found} | {spread(cells, 'cpr')} | {spread(cells, 'cmd')} | "
            f"{sum(cell['seconds'] for each in cells.values() for cell in each):.1f} s |"
        )
    return rows, by_design


def spread(cells: dict[int, list[dict[str, Any]]], what: str) -> str:
    """Mean over the models, and the standard deviation of that mean over the seeds."""
    means = [statistics.mean(cell[what] for cell in each) for each in cells.values()]
    return f"{statistics.mean(means):.3f} ± {statistics.stdev(means):.3f}"


def trained_tables(every: list[Given]) -> Iterator[str]:
    for given in every:
        yield from (
            "",
            f"## Trained: {given.name}",
            "",
            f"{len(given.problem.graph.edges):,} edges, {len(given.problem.images)} images, τ = {given.tau:g}; "
            f"measured on {len(given.held_out[0])} others. One seed.",
            "",
            "| method | CPR | CMD | time | edges of its circuit | accuracy | KL, nats |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        )
        for name, run in RUNS.items():
            sys.stderr.write(f"{name}: {given.name}\n")
            key = f"trained {name} {run} {given.name} {given.tau}"
            cell = cached(key, lambda given=given, run=run: on_trained(given, run))
            own = "– | – | –"
            if cell["edges"] is not None:
                own = f"{cell['edges']} | {100 * cell['accuracy']:.2f} % | {cell['kl']:.3f}"
            yield f"| {name} | {cell['cpr']:.3f} | {cell['cmd']:.3f} | {cell['seconds']:.1f} s | {own} |"


def draw(path: Path, by_design: dict[str, dict[str, float]]) -> None:
    designs = [design.__name__ for design in DESIGNS]
    values = np.array([[by_design[name][design] for design in designs] for name in RUNS])
    with drawn(path, (8.5, 5.2)) as figure:
        axes = figure.subplots()
        axes.imshow(values, cmap="Blues", vmin=0.4, vmax=1.0, aspect="auto")
        for row, column in np.ndindex(values.shape):
            colour = "white" if values[row, column] > 0.75 else "black"
            axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(designs)), [design.replace("_", " ") for design in designs], rotation=20)
        axes.set_yticks(range(len(RUNS)), list(RUNS))
        axes.set_title("Area under the ROC curve of the planted edges")
        axes.spines[:].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, nargs="*", default=[], help="folders in which the pipeline has run")
    arguments = parser.parse_args()
    rows, by_design = planted_rows()
    draw(TARGET.with_suffix(".png"), by_design)
    lines = [
        "# Circuits in vision models",
        "",
        f"{machine()}.",
        "",
        "    python benchmarks/vision_circuits.py --pipeline FOLDER ...",
        "",
        f"## Planted: {len(garden())} models, {len(SEEDS)} seeds",
        "",
        "Mean over the models ± standard deviation over the seeds. Exact: the circuit is the planted one, edge by "
        "edge.",
        "",
        "| method | AUROC | exact | CPR | CMD | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        "![AUROC by method and design](vision_circuits.png)",
    ]
    for line in trained_tables([small(), *map(pipeline, arguments.pipeline)]):
        lines.append(line)
        TARGET.write_text("\n".join(lines) + "\n")
    sys.stdout.write(TARGET.read_text())


if __name__ == "__main__":
    main()
