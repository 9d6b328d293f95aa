"""How stable are circuits: under other draws of the images, and under another order of visits?

    python benchmarks/stability.py [--pipeline FOLDER ...]

First, on the model of benchmarks/discovery_speed.py (1,108 edges), how long 100 bootstrap searches take together and
one after the other. Then, for that model and for those of finished pipelines, how the Jaccard index grows with the
number of images, and how much circuits of other orders and other draws differ, by the direction of the search; of other
orders on planted models, too. Every cell is kept in benchmarks/.work/stability, so that the benchmark can be stopped
and goes on. Writes benchmarks/results/stability.md.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from discovery_models import ROOT, WORK, machine, trained
from planted import Planted, garden
from torch import Tensor

from vitprune.circuit import Ablation, Circuit, discover
from vitprune.circuit.circuit import OneDirection
from vitprune.circuit.methods import Watch, discovery_options
from vitprune.circuit.methods.acdc import ACDC
from vitprune.circuit.problem import Direction, DiscoveryOptions, Problem
from vitprune.circuit.sample import normalised, training_sample
from vitprune.circuit.stability import LEVEL, Stability, agreement, bootstrap, mean_over_pairs, verdict
from vitprune.core.model import load_model
from vitprune.core.packed import load_packed
from vitprune.params import load_params

TARGET = ROOT / "benchmarks" / "results" / "stability.md"
SAMPLES = 100
RUNS = 30
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A model, images to search on, others on which circuits are compared, and the options of the search.

    ``sizes`` are numbers of images, the first ones, whose classes must be mixed; ``headline`` gets the most samples.
    """

    name: str
    problem: Problem
    held_out: Tensor
    options: DiscoveryOptions
    sizes: tuple[int, ...]
    headline: int


def small() -> Given:
    model = trained("small")
    ablation = Ablation.mean(model.model, model.images[:256])
    problem = Problem.of(model.model, model.images[:512], ablation=ablation)
    options = DiscoveryOptions(tau=1e-3, metric="kl")
    return Given(
        name="digits, 6 layers, 1,108 edges, τ = 0.001, edges",
        problem=problem,
        held_out=model.images[768:1024],
        options=options,
        sizes=(32, 64, 128, 256, 512),
        headline=32,
    )


def pipeline(folder: Path) -> Given:
    params, packed = load_params(folder / "params.yaml"), load_packed(folder / "data/clean")
    circuit, saved = Circuit.load(folder / "models/circuit"), load_model(folder / "models/circuit/model")
    images, labels = training_sample(packed, saved.preprocessing, 1024, params.acdc.seed, CPU)
    options = discovery_options(params.acdc)
    sizes = tuple(size for size in (64, 128, 256, 512, 1024) if size <= len(images))
    held_out, _ = normalised(packed.val, np.arange(min(256, len(packed.val))), saved.preprocessing, CPU)
    name = f"{params.data.source}, {len(circuit.graph.edges):,} edges, τ = {options.tau:g}, {options.granularity}"
    problem = Problem(saved.model, images, labels, circuit.graph, circuit.ablation)
    return Given(name=name, problem=problem, held_out=held_out, options=options, sizes=sizes, headline=256)


def cached(key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    path = cell(key).with_suffix(".json")
    if not path.is_file():
        sys.stderr.write(f"{key}\n")
        path.write_text(json.dumps(work()))
    return json.loads(path.read_text())


def cell(key: str) -> Path:
    """Where something is kept, but for the ending."""
    folder = WORK / "stability"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / hashlib.sha256(key.encode()).hexdigest()[:16]


def speed(given: Given) -> dict[str, float]:
    """Seconds of 100 bootstrap searches together, and of one after the other, estimated from ten."""
    problem = given.problem.on(range(given.sizes[0]))
    discover(problem.model, problem.images, tau=1.0)
    start = time.perf_counter()
    bootstrap(problem, options=given.options, samples=SAMPLES)
    together = time.perf_counter() - start
    draws = torch.randint(len(problem.images), (10, len(problem.images)), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    for draw in draws:
        ACDC.run(problem.on(draw.tolist()), given.options, Watch())
    return {"together": together, "alone": (time.perf_counter() - start) * SAMPLES / len(draws)}


def by_images(given: Given, count: int, samples: int) -> dict[str, Any]:
    """What ``samples`` bootstrap samples of ``count`` images agree about."""
    problem = given.problem.on(range(count))
    start = time.perf_counter()
    found = bootstrap(problem, options=given.options, samples=samples)
    seconds = time.perf_counter() - start
    example = ACDC.run(problem, given.options, Watch())
    agreeing = agreement(found, example, problem.model, given.held_out)
    verdicts = [verdict(share) for share in found.frequency[found.graph.all_edges].tolist()]
    return {
        "samples": samples,
        "seconds": seconds,
        "edges": float(found.masks.flatten(1).sum(dim=1).double().mean()),
        "jaccard": vars(mean_over_pairs(found.jaccard)),
        "same_class": mean_over_pairs(agreeing.same_class).mean,
        "in": verdicts.count("in"),
        "undecided": verdicts.count("undecided"),
    }


def circuits(given: Given, direction: OneDirection, what: str) -> Tensor:
    """The masks of circuits of other orders, or of other draws of the images, ``(RUNS, receivers, senders)``.

    Each is kept as soon as it is found.
    """
    problem, options = given.problem.on(range(given.sizes[0])), replace(given.options, direction=direction)
    masks = []
    for run in range(RUNS):
        path = cell(f"{given.name} {what} {direction} {run}").with_suffix(".pt")
        if not path.is_file():
            sys.stderr.write(f"{given.name}: {what}, {direction}, {run + 1} of {RUNS}\n")
            if what == "orders":
                found = ACDC.run(problem, replace(options, order=run), Watch())
            else:
                count = len(problem.images)
                drawn = torch.randint(count, (count,), generator=torch.Generator().manual_seed(run))
                found = ACDC.run(problem.on(drawn.tolist()), options, Watch())
            torch.save(found.keep_mask, path)
        masks.append(torch.load(path))
    return torch.stack(masks)


def differing(masks: Tensor) -> Tensor:
    """How many edges two circuits do not share, ``(n, n)``, from their masks ``(n, receivers, senders)``."""
    kept = masks.flatten(1).double()
    return kept.sum(dim=1)[:, None] + kept.sum(dim=1) - 2 * kept @ kept.T


def spread(given: Given, masks: Tensor) -> str:
    """How many edges circuits keep, how many differ between two of them, and their Jaccard index."""
    kept = masks.flatten(1).sum(dim=1).double()
    jaccard = Stability(graph=given.problem.graph, masks=masks).jaccard
    return (
        f"{float(kept.mean()):.0f} | {interval(vars(mean_over_pairs(differing(masks))), 1)} | "
        f"{interval(vars(mean_over_pairs(jaccard)), 3)}"
    )


def orders_of_planted(each: Planted) -> dict[str, dict[str, float]]:
    """Edges that differ between circuits of other orders, on average, by direction, and how many edges are wrong."""
    found = {}
    for direction in get_args(Direction):
        masks = torch.stack(
            [
                discover(
                    each.model,
                    each.images,
                    graph=each.graph,
                    ablation=each.ablation,
                    tau=1e-3,
                    direction=direction,
                    order=order,
                ).keep_mask
                for order in range(RUNS)
            ]
        )
        wrong = (masks ^ each.graph.mask_of(list(each.true_edges))).flatten(1).sum(dim=1).double().mean()
        found[direction] = {"differing": mean_over_pairs(differing(masks)).mean, "wrong": float(wrong)}
    return found


def planted_lines() -> list[str]:
    """Other orders on planted models, in which some parts can stand in for others."""
    every = garden()
    cells = [cached(f"planted orders {each.name}", lambda each=each: orders_of_planted(each)) for each in every]
    lines = [
        f"## Planted, {len(every)} models, τ = 0.001, edges",
        "",
        f"Between two of {RUNS} circuits of other orders, and between a circuit and the planted one; mean over the "
        "models of benchmarks/planted.py, and the worst of them.",
        "",
        "| direction | edges that differ | worst | edges that are wrong | worst |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for direction in get_args(Direction):
        columns = [[cell[direction][what] for cell in cells] for what in ("differing", "wrong")]
        shown = (f"{statistics.mean(values):.2f} | {max(values):.2f}" for values in columns)
        lines.append(f"| {direction} | {' | '.join(shown)} |")
    return [*lines, ""]


def interval(estimate: dict[str, float], digits: int) -> str:
    return f"{estimate['mean']:.{digits}f} ({estimate['low']:.{digits}f}–{estimate['high']:.{digits}f})"


def table_of(given: Given) -> list[str]:
    """The tables of one model, cell by cell from the cache."""
    rows = []
    for count in given.sizes:
        samples = SAMPLES if count == given.headline else RUNS
        found = cached(f"{given.name} images {count} {samples}", lambda c=count, s=samples: by_images(given, c, s))
        rows.append(
            f"| {count:,} | {found['samples']} | {found['seconds']:.0f} s | {found['edges']:.0f} | "
            f"{interval(found['jaccard'], 3)} | {100 * found['same_class']:.1f} % | {found['in']} | "
            f"{found['undecided']} |"
        )
    lines = [
        f"## {given.name}",
        "",
        "| images | samples | time | edges kept | Jaccard index | same class | edges in | undecided |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        f"Edges that differ between two of {RUNS} circuits, {given.sizes[0]} images:",
        "",
        "| direction | edges kept | other orders | Jaccard index | edges kept | other draws | Jaccard index |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    masks = {
        direction: [circuits(given, direction, what) for what in ("orders", "draws")]
        for direction in get_args(OneDirection)
    }
    # In both directions, a circuit keeps what either keeps.
    masks["both"] = [one | other for one, other in zip(*masks.values(), strict=True)]
    for direction, (orders, draws) in masks.items():
        lines.append(f"| {direction} | {spread(given, orders)} | {spread(given, draws)} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, nargs="*", default=[], help="folders in which the pipeline has run")
    arguments = parser.parse_args()
    model = small()
    seconds = cached("speed", lambda: speed(model))
    lines = [
        "# How stable circuits are",
        "",
        f"{machine()}. Mean and 95 % interval over pairs of circuits, by drawing circuits with replacement. An edge is "
        f"in if {100 * LEVEL:.0f} % of the samples keep it, out if as many do not. Same class: share of 256 images "
        "that the search did not see.",
        "",
        "    python benchmarks/stability.py --pipeline FOLDER ...",
        "",
        f"{SAMPLES} bootstrap searches on {model.sizes[0]} images ({model.name}): {seconds['together']:.0f} s "
        f"together, {seconds['alone']:.0f} s one after the other, {seconds['alone'] / seconds['together']:.2f}×.",
        "",
    ]
    lines += planted_lines()
    for given in (model, *map(pipeline, arguments.pipeline)):
        lines += table_of(given)
        TARGET.write_text("\n".join(lines).rstrip() + "\n")
    sys.stdout.write(TARGET.read_text())


if __name__ == "__main__":
    main()
