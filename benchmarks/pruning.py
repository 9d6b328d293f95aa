"""Pruning at equal measured speed and equal fine-tuning: KL per millisecond against what someone would use instead.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning.py --folder PIPELINE --speedups 2 3 --seeds 3 --epochs 1

PIPELINE is a folder in which the pipeline has run up to ``train``: it has params.yaml, data/clean and models/baseline.
Every method prunes that baseline until it is measured to be so many times as fast, and is then fine-tuned by
distillation from it for the same epochs of the same recipe; the best epoch is chosen on validation images. Seeds change
the images on which a method decides, the random mask, and the order and augmentation in fine-tuning. Each
model is timed in turn with the baseline. ``scratch`` is the shape that ours has, trained by the whole recipe from fresh
weights and then fine-tuned like the others; it takes longest, and is run for the first seed.

Each result is kept in benchmarks/.work/pruning, so that a benchmark that was interrupted goes on. Writes
benchmarks/results/pruning.md.
"""

import argparse
import copy
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rivals
import torch
from discovery_models import ROOT, machine

from vitprune.circuit import Ablation
from vitprune.circuit.neurons import sort_neurons
from vitprune.commands.searching import search_images
from vitprune.config import DistillationParams, Params, load_params
from vitprune.data import load_packed
from vitprune.data.packed import PackedData
from vitprune.device import keep_freed_memory
from vitprune.model import SavedModel, ViT, load_model
from vitprune.model.predict import predict
from vitprune.model.score import score
from vitprune.pruning.latency import Bench, LatencyTable, latency_table
from vitprune.pruning.speed import SpeedSearch
from vitprune.pruning.target import measured_speedup, reach_speedup
from vitprune.stopwatch import time_in_turn
from vitprune.training import train
from vitprune.training.distillation import Distiller
from vitprune.training.precision import choose_precision

CPU = torch.device("cpu")
METHODS = ("ours", "torch-pruning", "magnitude", "eap", "random", "scratch")
CACHE = ROOT / "benchmarks" / ".work" / "pruning"
RATIOS = [round(0.02 * step, 2) for step in range(46)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all methods are given."""

    params: Params
    packed: PackedData
    baseline: SavedModel
    table: LatencyTable
    bench: Bench


def setting_of(folder: Path) -> Setting:
    params = load_params(folder / "params.yaml")
    packed, baseline = load_packed(folder / "data" / "clean"), load_model(folder / "models" / "baseline")
    prune = params.prune
    bench = Bench(device=CPU, batch_size=prune.batch_size, warmup=prune.warmup, rounds=prune.rounds)
    table = latency_table(baseline.model.config, prune.group_size, bench, CACHE / "latency.json")
    return Setting(params, packed, baseline, table, bench)


def pruned(given: Setting, method: str, speedup: float, seed: int) -> torch.nn.Module:
    """The model of a method that is so many times as fast as the baseline."""
    options = given.params.acdc
    images, labels = search_images(given.packed, given.baseline.preprocessing, options.num_images, seed, CPU)
    reference, _ = search_images(given.packed, given.baseline.preprocessing, options.num_reference_images, seed, CPU)
    group_size = given.params.prune.group_size
    model = sort_neurons(given.baseline.model, images, torch.Generator().manual_seed(seed))
    ablation = Ablation.mean(model, reference)
    if method in ("ours", "scratch"):
        search = SpeedSearch(model, images, ablation, given.table, group_size)
        goal = given.table.milliseconds(model.config) / speedup
        small = reach_speedup(search, model, ablation, speedup, given.bench, baseline=model, goal=goal).model
        return rivals.scratch(small, seed) if method == "scratch" else small
    if method == "torch-pruning":
        return fast_enough(given, rivals.by_torch_pruning(model, images, labels, RATIOS), speedup)
    units = rivals.heads_and_groups(model, images, ablation, group_size)
    scores = {
        "magnitude": lambda: rivals.magnitude_scores(model, units),
        "random": lambda: rivals.random_scores(units, seed),
        "eap": lambda: rivals.eap_scores(model, units, images, labels, ablation, group_size),
    }[method]()
    return fast_enough(given, rivals.by_ranking(model, ablation, units, scores, given.table), speedup)


def fast_enough(given: Setting, models: Sequence[Callable[[], torch.nn.Module]], speedup: float) -> torch.nn.Module:
    """The first of ever faster models that is measured to be fast enough, found by halving."""
    too_few, enough = -1, len(models) - 1
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        is_enough = measured_speedup(given.baseline.model, models[middle](), given.bench) >= speedup
        enough, too_few = (middle, too_few) if is_enough else (enough, middle)
    return models[enough]()


def accuracy(given: Setting, model: torch.nn.Module, split: str) -> float:
    images = getattr(given.packed, split)
    logits = predict(model, images.images, given.baseline.preprocessing, device=CPU)
    return 100 * score(logits, images.labels).accuracy


def tuned(
    given: Setting,
    model: torch.nn.Module,
    seed: int,
    epochs: int,
    *,
    distillation: DistillationParams | None = None,
    is_fresh: bool = False,
) -> None:
    """Fine-tune in place with the baseline as teacher; fresh weights are trained by the whole recipe before."""
    params, baseline = given.params, given.baseline
    options, distillation = params.finetune, distillation or params.finetune.distillation
    common = {
        "preprocessing": baseline.preprocessing,
        "recipe": params.train,
        "device": CPU,
        "precision": choose_precision(params.compute.precision, CPU),
        "seed": seed,
        "on_epoch": lambda record: sys.stderr.write(f"  epoch {record.epoch}: {100 * record.val_accuracy:.2f} %\n"),
    }
    splits = given.packed.train, given.packed.val
    if is_fresh:
        length = params.train
        train(
            model,
            *splits,
            epochs=length.epochs,
            learning_rate=length.learning_rate,
            warmup_epochs=length.warmup_epochs,
            **common,
        )
    train(
        model,
        *splits,
        epochs=epochs,
        learning_rate=options.learning_rate,
        warmup_epochs=min(options.warmup_epochs, epochs / 4),
        distiller=Distiller(copy.deepcopy(baseline), distillation, baseline.preprocessing)
        if distillation.is_on
        else None,
        **common,
    )


def result(given: Setting, method: str, speedup: float, seed: int, epochs: int) -> dict[str, float]:
    """Accuracies in % of one method before and after fine-tuning, and its measured speeds; from the cache if there."""
    cached = CACHE / f"{given.params.data.source}-{method}-{speedup:g}-{seed}-{epochs}.json"
    if cached.is_file():
        return json.loads(cached.read_text())
    sys.stderr.write(f"{method}, {speedup:g} times as fast, seed {seed}\n")
    model = pruned(given, method, speedup, seed)
    found = {"before": accuracy(given, model, "test")}
    tuned(given, model, seed, epochs, is_fresh=method == "scratch")
    found |= {"val": accuracy(given, model, "val"), "test": accuracy(given, model, "test")}
    for size in (1, given.bench.batch_size):
        found[f"batch_{size}"] = speed(given, model, size)
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_text(json.dumps(found))
    return found


def speed(given: Setting, model: torch.nn.Module, batch_size: int) -> float:
    """How many times as fast as the baseline, in turn with it."""
    config = given.baseline.model.config
    images = torch.randn(batch_size, config.in_channels, config.image_size, config.image_size)
    work = [partial(each.eval(), images) for each in (given.baseline.model, model)]
    with torch.inference_mode():
        seconds = time_in_turn(work, CPU, warmup=10, rounds=50)
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def control(given: Setting, seed: int, epochs: int) -> float:
    """Test accuracy in % of the baseline after the same fine-tuning."""
    cached = CACHE / f"{given.params.data.source}-control-{seed}-{epochs}.json"
    if not cached.is_file():
        sys.stderr.write(f"baseline, seed {seed}\n")
        model: ViT = copy.deepcopy(given.baseline.model)
        tuned(given, model, seed, epochs)
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(json.dumps(accuracy(given, model, "test")))
    return float(json.loads(cached.read_text()))


def spread(values: Sequence[float], digits: int = 2) -> str:
    more = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else " (one seed)"
    return f"{statistics.mean(values):.{digits}f}{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--speedups", type=float, nargs="+", default=[2.0, 3.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "pruning.md")
    arguments = parser.parse_args()
    keep_freed_memory()
    given = setting_of(arguments.folder)
    epochs, seeds, size = arguments.epochs, range(arguments.seeds), given.bench.batch_size
    rows = {}
    for speedup in arguments.speedups:
        for method in arguments.methods:
            own = seeds[:1] if method == "scratch" else seeds
            rows[speedup, method] = [result(given, method, speedup, seed, epochs) for seed in own]
    controls = [control(given, seed, epochs) for seed in seeds]
    whole = accuracy(given, given.baseline.model, "test")
    lines = [
        f"# Ways to prune, {given.params.data.source}",
        "",
        f"{machine()}; Torch-Pruning {version('torch-pruning')}. One baseline with {whole:.2f} % on test; pruned to a "
        f"measured speed-up at batch {size}, then fine-tuned for {epochs} epoch{'s' if epochs > 1 else ''} by "
        f"distillation from it. Mean ± standard deviation over {len(seeds)} seeds of search images, random mask and "
        "fine-tuning; test accuracy in %. The baseline, fine-tuned in the same way: "
        f"{spread(controls)} %.",
        "",
        f"| method | asked for | speed-up, batch {size} | batch 1 | before fine-tuning | after | ours minus this |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (speedup, method), found in rows.items():
        ours = rows.get((speedup, "ours"), [])
        gaps = [mine["test"] - theirs["test"] for mine, theirs in zip(ours, found, strict=False)]
        cells = [
            method,
            f"{speedup:g}×",
            *(f"{statistics.median(each[f'batch_{count}'] for each in found):.2f}×" for count in (size, 1)),
            spread([each["before"] for each in found]),
            spread([each["test"] for each in found]),
            "–" if method == "ours" or not gaps else spread(gaps),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    arguments.output.write_text("\n".join(lines) + "\n")
    sys.stdout.write(arguments.output.read_text())


if __name__ == "__main__":
    main()
