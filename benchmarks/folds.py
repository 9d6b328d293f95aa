"""What stands for removed parts, before any fine-tuning: KL and accuracy by search and by fold.

    python benchmarks/folds.py --folder PIPELINE --speedups 2 3 4 5 --seeds 3

PIPELINE is a folder in which the pipeline has run up to ``train``. Speeds are predicted, by one table of times for all.
For each speed and seed of the images, one search sees the mean fold and another the affine one; what each leaves is
folded in all three ways. "Chosen" is what ``prune.fold: refit`` does: of the two, the refit with the lower KL on the
images of the search. Choices are made by the validation images; the test images are reported beside them. Writes
benchmarks/results/SOURCE_folds.md.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from discovery_models import ROOT, machine
from tuning import CPU, Setting, accuracy, plural, setting_of

from vitprune.circuit import Ablation
from vitprune.circuit.metrics import kl_divergence
from vitprune.circuit.neurons import sort_neurons
from vitprune.circuit.sample import training_sample
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.pruning import cut
from vitprune.pruning.fold import Fold
from vitprune.pruning.latency import LatencyTable
from vitprune.pruning.measurements import SpeedMeter
from vitprune.pruning.refit import refit
from vitprune.pruning.search import SpeedSearch

SPLITS = ("val", "test")
Found = dict[tuple[float, str, str, str], list[tuple[float, float]]]
"""KL in nats and accuracy in % of every seed, by speed-up, search, fold and split."""


def add_seed(found: Found, given: Setting, table: LatencyTable, speedups: Sequence[float], seed: int) -> None:
    """Search, fold and score with the images of one seed."""
    options, preprocessing = given.params.prune, given.baseline.preprocessing
    images, fold_images = (
        training_sample(given.packed, preprocessing, count, seed, CPU)[0]
        for count in (options.num_images, options.num_fold_images)
    )
    model = sort_neurons(given.baseline.model, images, torch.Generator().manual_seed(seed))
    splits = {split: getattr(given.packed, split) for split in SPLITS}
    full = {split: predict(model, of.images, preprocessing, device=CPU) for split, of in splits.items()}
    mean = Fold.mean(Ablation.mean(model, fold_images), model)
    affine = Fold.affine(model, fold_images)
    for speedup in speedups:
        refits: list[tuple[float, str]] = []
        for name, fold in (("mean", mean), ("affine", affine)):
            sys.stderr.write(f"seed {seed}, {speedup:g} times as fast, search by the {name} fold\n")
            search = SpeedSearch(model, images, fold, table, options.group_size)
            limit = search.whole_milliseconds / speedup
            search.reach_milliseconds(limit)
            search.improve_within(limit)
            by_mean = cut(model, search.survivors, mean)
            folded = {
                "mean": by_mean,
                "affine": cut(model, search.survivors, affine),
                "refit": refit(by_mean, model, fold_images),
            }
            for way, small in folded.items():
                for split, of in splits.items():
                    logits = predict(small, of.images, preprocessing, device=CPU)
                    scores = kl_divergence(full[split], logits), 100 * score(logits, of.labels).accuracy
                    found[speedup, name, way, split].append(scores)
            with torch.inference_mode():
                refits.append((kl_divergence(model(images), folded["refit"](images)), name))
        for split in splits:
            found[speedup, "chosen", "refit", split].append(found[speedup, min(refits)[1], "refit", split][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--speedups", type=float, nargs="+", default=[2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/SOURCE_folds.md")
    arguments = parser.parse_args()
    given, found = setting_of(arguments.folder), defaultdict(list)
    options = given.params.prune
    table = SpeedMeter(given.baseline.model, options.group_size, options.protocol(CPU)).table()
    for seed in range(arguments.seeds):
        add_seed(found, given, table, arguments.speedups, seed)

    whole = " and ".join(f"{accuracy(given, given.baseline.model, split):.2f} % ({split})" for split in SPLITS)
    lines = [
        f"# Folds: {given.name}",
        "",
        f"Before fine-tuning; mean of {plural(arguments.seeds, 'seed')} of the images on which is pruned, with the",
        f"range from lowest to highest. The baseline has {whole}. Speeds are predicted at batch size",
        f"{options.timing_batch_size}. {machine()}.",
        "",
        f"    python benchmarks/folds.py --folder PIPELINE --speedups {' '.join(f'{s:g}' for s in arguments.speedups)} "
        f"--seeds {arguments.seeds}",
        "",
        "| speed-up | search by | folded by | KL, val | accuracy, val | KL, test | accuracy, test |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for speedup, search, fold in dict.fromkeys(case[:3] for case in found):
        cells = [f"{speedup:g}×", search, fold]
        for split in SPLITS:
            kls, accuracies = zip(*found[speedup, search, fold, split], strict=True)
            cells.append(f"{statistics.mean(kls):.4f} ({min(kls):.4f}–{max(kls):.4f})")
            cells.append(f"{statistics.mean(accuracies):.2f} % ({min(accuracies):.2f}–{max(accuracies):.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{given.params.data.source}_folds.md"
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
