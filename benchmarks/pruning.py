"""Pruning at equal measured speed and equal fine-tuning: KL per millisecond against what someone would use instead.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning.py --folder PIPELINE --speedups 2 3 --seeds 3 --epochs 1

PIPELINE is a folder in which the pipeline has run up to ``train``: it has params.yaml, data/clean and models/baseline.
Every method prunes that baseline until it is measured to be so many times as fast, and is then fine-tuned by
distillation from it for the same epochs of the same recipe; the best epoch is chosen on validation images. Seeds change
the images on which a method decides, the random mask, and the order and augmentation in fine-tuning. ``scratch`` is the
shape that ours has, trained by the whole recipe from fresh weights and then fine-tuned like the others; it takes
longest, and is run for the first seed. The control is the baseline itself, fine-tuned like the others.

All models are pruned first, each timed in turn with the baseline while nothing else runs; then they are fine-tuned, as
many at once as ``--jobs`` says. Each is kept in benchmarks/.work/pruning, so that a benchmark that was interrupted goes
on. Writes benchmarks/results/SOURCE_pruning.md, SOURCE being that of the data.
"""

import argparse
import copy
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rivals
import torch
from discovery_models import ROOT, WORK, machine
from torch import nn
from tuning import CPU, Setting, accuracy, accuracy_and_loss, at_once, plural, setting_of, spread, tune

from vitprune.circuit import Ablation
from vitprune.circuit.neurons import sort_neurons
from vitprune.circuit.sample import training_sample
from vitprune.core.compute.device import keep_freed_memory
from vitprune.core.compute.stopwatch import TimingProtocol, time_in_turn
from vitprune.core.model import ViT
from vitprune.pruning.cutting import search_target
from vitprune.pruning.fold import Fold
from vitprune.pruning.latency import LatencyTable
from vitprune.pruning.measurements import Measurements, SpeedMeter, measured_speedup

OURS = {"ours": "refit", "ours, affine": "affine", "ours, mean": "mean"}
"""Our search and the fold that goes with it."""
METHODS = (*OURS, "scratch", "torch-pruning", "corp", "mask tuning", "magnitude", "eap", "random")
CACHE = WORK / "pruning"
RATIOS = [round(0.02 * step, 2) for step in range(46)]
BATCH_SIZES = (1, 8, 128)


@dataclass(frozen=True)
class Case:
    """One model to prune and fine-tune; ``speedup`` is asked for at ``batch_size``."""

    folder: Path
    method: str
    speedup: float
    batch_size: int
    seed: int
    epochs: int

    def file(self, suffix: str) -> Path:
        """Where what is known of it is kept."""
        method = "-".join(self.method.replace(",", "").split())
        name = f"{method}-{self.speedup:g}-batch{self.batch_size}-seed{self.seed}{suffix}"
        return CACHE / setting_of(self.folder).name / name

    @property
    def pruned_file(self) -> Path:
        return self.file(".pt")

    @property
    def tuned_file(self) -> Path:
        return self.file(f"-epochs{self.epochs}.json")


def prune(cases: Sequence[Case], given: Setting, protocol: TimingProtocol) -> None:
    """Prune and time what is not pruned yet."""
    missing = [case for case in cases if not case.pruned_file.is_file()]
    if not missing:
        return
    latency = CACHE / "latency.json"
    meter = SpeedMeter(given.baseline.model, given.params.prune.group_size, protocol, Measurements.read(latency))
    table = meter.table()
    meter.measurements.write(latency)
    for case in missing:
        sys.stderr.write(f"prune: {case.method}, {case.speedup:g} times as fast, seed {case.seed}\n")
        model = pruned(given, table, protocol, case)
        found = {f"batch_{size}": speed(given.baseline.model, model, size) for size in BATCH_SIZES}
        found["before"], found["loss_before"] = accuracy_and_loss(given, model, "test")
        case.pruned_file.parent.mkdir(parents=True, exist_ok=True)
        torch.save((model, found), case.pruned_file)


def pruned(given: Setting, table: LatencyTable, protocol: TimingProtocol, case: Case) -> nn.Module:
    """The model of a method that is so many times as fast as the baseline."""
    method, speedup, seed, options = case.method, case.speedup, case.seed, given.params.prune
    if method == "scratch":
        ours = replace(case, method="ours")
        known = ours.pruned_file.is_file()
        small = torch.load(ours.pruned_file, weights_only=False)[0] if known else pruned(given, table, protocol, ours)
        return rivals.scratch(small, seed)
    images, labels = training_sample(given.packed, given.baseline.preprocessing, options.num_images, seed, CPU)
    fold_images, _ = training_sample(given.packed, given.baseline.preprocessing, options.num_fold_images, seed, CPU)
    group_size = options.group_size
    baseline = given.baseline.model
    model = sort_neurons(baseline, images, torch.Generator().manual_seed(seed))
    ablation = Ablation.mean(model, fold_images)
    if method in OURS:
        meter = SpeedMeter(model, group_size, protocol, Measurements.read(CACHE / "latency.json"))
        update = {"target_speedup": speedup, "target_kl": None, "fold": OURS[method]}
        return search_target(options.model_copy(update=update), model, images, fold_images, meter).model
    if method == "torch-pruning":
        models = rivals.by_torch_pruning(model, images, labels, RATIOS)
        return fast_enough(baseline, protocol, models, speedup)
    units = rivals.heads_and_groups(model, images, ablation, group_size)
    scores = {
        "magnitude": lambda: rivals.magnitude_scores(model, units),
        "random": lambda: rivals.random_scores(units, seed),
        "eap": lambda: rivals.eap_scores(model, units, images, labels, ablation, group_size),
        "corp": lambda: rivals.energy_scores(model, units, fold_images),
        "mask tuning": lambda: rivals.fisher_scores(model, units, images, labels),
    }[method]()
    fold = Fold.affine(model, fold_images) if method == "corp" else Fold.mean(ablation, model)
    small = fast_enough(baseline, protocol, rivals.by_ranking(model, fold, units, scores, table), speedup)
    return rivals.mask_tuned(small, model, fold_images) if method == "mask tuning" else small


def fast_enough(
    baseline: ViT, protocol: TimingProtocol, models: Sequence[Callable[[], nn.Module]], speedup: float
) -> nn.Module:
    """The first of ever faster models that is measured to be fast enough, found by halving."""
    too_few, enough = -1, len(models) - 1
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        is_enough = measured_speedup(baseline, models[middle](), protocol) >= speedup
        enough, too_few = (middle, too_few) if is_enough else (enough, middle)
    return models[enough]()


def speed(baseline: ViT, model: nn.Module, batch_size: int) -> float:
    """How many times as fast as the baseline, in turn with it."""
    config = baseline.config
    images = torch.randn(batch_size, config.in_channels, config.image_size, config.image_size)
    work = [partial(each.eval(), images) for each in (baseline, model)]
    with torch.inference_mode():
        seconds = time_in_turn(work, CPU, warmup=10, rounds=50)
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def tuned(case: Case) -> dict[str, float]:
    """Accuracies in % of one method before and after fine-tuning, and its measured speeds."""
    if case.tuned_file.is_file():
        return json.loads(case.tuned_file.read_text())
    given = setting_of(case.folder)
    sys.stderr.write(f"fine-tune: {case.method}, {case.speedup:g} times as fast, seed {case.seed}\n")
    if case.method == "control":
        model, found = copy.deepcopy(given.baseline.model), {}
    else:
        model, found = torch.load(case.pruned_file, weights_only=False)
    tune(given, model, case.seed, case.epochs, is_fresh=case.method == "scratch")
    found["val"] = accuracy(given, model, "val")
    found["test"], found["loss"] = accuracy_and_loss(given, model, "test")
    case.tuned_file.parent.mkdir(parents=True, exist_ok=True)
    case.tuned_file.write_text(json.dumps(found))
    return found


def table_of(results: dict[Case, dict[str, float]], speedups: Sequence[float], batch_size: int) -> list[str]:
    """Lines of Markdown: a row for each method at each speed-up."""
    others = [size for size in BATCH_SIZES if size != batch_size]
    lines = [
        f"| method | asked for | speed-up, batch {batch_size} | "
        + " | ".join(f"batch {size}" for size in others)
        + " | before fine-tuning | loss | after | loss | ours minus this, before | after |",
        "| --- " + "| ---: " * (8 + len(others)) + "|",
    ]
    for speedup in speedups:
        tests = {
            method: {
                case.seed: found for case, found in results.items() if (case.method, case.speedup) == (method, speedup)
            }
            for method in METHODS
        }
        for method, by_seed in tests.items():
            if not by_seed:
                continue
            found = list(by_seed.values())
            gaps = [
                [tests["ours"][seed][key] - of[key] for seed, of in by_seed.items() if seed in tests["ours"]]
                for key in ("before", "test")
            ]
            cells = [
                method,
                f"{speedup:g}×",
                *(
                    f"{statistics.median(each[f'batch_{size}'] for each in found):.2f}×"
                    for size in (batch_size, *others)
                ),
                *(spread([each[key] for each in found]) for key in ("before", "loss_before", "test", "loss")),
                *("–" if method == "ours" or not gap else spread(gap) for gap in gaps),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--speedups", type=float, nargs="+", default=[2.0, 3.0])
    parser.add_argument("--batch-size", type=int, default=128, help="at which a model has to be so many times as fast")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="models that are fine-tuned at once")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--prune-only", action="store_true", help="leave the fine-tuning to a second call")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/SOURCE_pruning.md")
    arguments = parser.parse_args()
    keep_freed_memory()
    given, epochs, size = setting_of(arguments.folder), arguments.epochs, arguments.batch_size
    case_of = partial(Case, arguments.folder, batch_size=size, epochs=epochs)
    cases = [
        case_of(method=method, speedup=speedup, seed=seed)
        for seed in range(arguments.seeds)
        for speedup in arguments.speedups
        for method in arguments.methods
        if method != "scratch" or not seed
    ]
    options = given.params.prune
    prune(cases, given, replace(options.protocol(CPU), batch_size=size))
    if arguments.prune_only:
        return
    controls = [case_of(method="control", speedup=1.0, seed=seed) for seed in range(arguments.seeds)]
    # What takes longest comes first, so that no process is left to wait for it.
    longest_first = sorted([*controls, *cases], key=lambda case: case.method != "scratch")
    results = dict(at_once(tuned, longest_first, arguments.jobs))
    whole = accuracy(given, given.baseline.model, "test")
    source = given.params.data.source
    asked = [f"{speedup:g}" for speedup in arguments.speedups]
    command = ["--speedups", *asked, "--seeds", str(arguments.seeds), "--epochs", str(epochs)]
    command += ["--batch-size", str(size), "--methods", *arguments.methods]
    lines = [
        f"# Ways to prune, {source}",
        "",
        f"{machine()}; Torch-Pruning {version('torch-pruning')}. One baseline with {whole:.2f} % on test; pruned to a "
        f"measured speed-up at batch {size}, then fine-tuned for {plural(epochs, 'epoch')} by distillation from it. "
        f"Mean ± standard deviation over {plural(arguments.seeds, 'seed')} of search images, random mask and "
        "fine-tuning; test accuracy in %. The baseline, fine-tuned in the same way: "
        f"{spread([results[case]['test'] for case in controls])} %.",
        "",
        f"    python benchmarks/pruning.py --folder PIPELINE {shlex.join(command)}",
        "",
        *table_of(results, arguments.speedups, size),
    ]
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{source.replace('-', '_')}_pruning.md"
    output.write_text("\n".join(lines) + "\n")
    sys.stdout.write(output.read_text())


if __name__ == "__main__":
    main()
