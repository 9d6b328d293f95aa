"""What a pruned model learns most from while it is fine-tuned: labels, the baseline's answers, or its streams as well.

    python benchmarks/recovery.py --folder PIPELINE --epochs 1 --seeds 3

PIPELINE is a folder in which the pipeline has run up to ``acdc``: it has params.yaml, data/clean, models/baseline and
models/pruned. The pruned model is fine-tuned anew with each loss, everything else being that of ``finetune``; seeds
change order and augmentation. Figures are those of the validation images, since they are here to choose by. Writes
benchmarks/results/SOURCE_recovery.md, SOURCE being that of the data.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from discovery_models import ROOT, machine
from tuning import CPU, at_once, plural, setting_of, spread, tune

from vitprune.circuit.metrics import kl_divergence
from vitprune.core.model import load_model
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.training.options import DistillationOptions

PLAIN = {"weight": 0.0, "temperature": 2.0, "hard": False, "feature_weight": 0.0}
LOSSES = {
    "cross-entropy with the labels": {},
    "its hard answers": {"weight": 0.9, "hard": True},
    "half KL to its answers": {"weight": 0.5},
    "0.9 KL": {"weight": 0.9},
    "0.9 KL, temperature 1": {"weight": 0.9, "temperature": 1.0},
    "0.9 KL, temperature 4": {"weight": 0.9, "temperature": 4.0},
    "KL alone": {"weight": 1.0},
    "0.9 KL and streams": {"weight": 0.9, "feature_weight": 1.0},
}


@dataclass(frozen=True)
class Case:
    """One fine-tuning; ``loss`` is one of LOSSES."""

    folder: Path
    loss: str
    seed: int
    epochs: int


def recovered(case: Case) -> dict[str, float]:
    """Validation figures of the pruned model after fine-tuning with a loss."""
    sys.stderr.write(f"{case.loss}, seed {case.seed}\n")
    given, saved = setting_of(case.folder), load_model(case.folder / "models" / "pruned")
    distillation = DistillationOptions(**PLAIN | LOSSES[case.loss])
    tune(given, saved.model, case.seed, case.epochs, distillation=distillation)
    val, preprocessing = given.packed.val, given.baseline.preprocessing
    logits = predict(saved.model, val.images, preprocessing, device=CPU)
    theirs = predict(given.baseline.model, val.images, preprocessing, device=CPU)
    found = score(logits, val.labels)
    return {"accuracy": 100 * found.accuracy, "loss": found.loss, "kl": kl_divergence(theirs, logits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="models that are fine-tuned at once")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/SOURCE_recovery.md")
    arguments = parser.parse_args()
    source = setting_of(arguments.folder).params.data.source
    cases = [Case(arguments.folder, loss, seed, arguments.epochs) for loss in LOSSES for seed in range(arguments.seeds)]
    results = dict(at_once(recovered, cases, arguments.jobs))
    lines = [
        f"# Losses of fine-tuning, {source}",
        "",
        f"{machine()}. The pruned model after {plural(arguments.epochs, 'epoch')} with each loss: mean ± standard "
        f"deviation over {plural(arguments.seeds, 'seed')}, on validation images. The teacher is the baseline.",
        "",
        "| loss | accuracy, % | cross-entropy | KL from the baseline |",
        "| --- | ---: | ---: | ---: |",
    ]
    for loss in LOSSES:
        found = [result for case, result in results.items() if case.loss == loss]
        cells = [
            spread([each[key] for each in found], digits) for key, digits in (("accuracy", 2), ("loss", 3), ("kl", 4))
        ]
        lines.append("| " + " | ".join([loss, *cells]) + " |")
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{source.replace('-', '_')}_recovery.md"
    output.write_text("\n".join(lines) + "\n")
    sys.stdout.write(output.read_text())


if __name__ == "__main__":
    main()
