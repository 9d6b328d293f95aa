"""What a pruned model learns most from while it is fine-tuned: labels, the baseline's answers, or its streams as well.

    python benchmarks/recovery.py --folder PIPELINE --epochs 1 --seeds 3

PIPELINE is a folder in which the pipeline has run up to ``acdc``: it has params.yaml, data/clean, models/baseline and
models/pruned. The pruned model is fine-tuned anew with each loss, everything else being that of ``finetune``; seeds
change order and augmentation. Figures are those of the validation images, since they are here to choose by. Adds to
benchmarks/results/recovery.md.
"""

import argparse
import copy
import sys
from pathlib import Path

from discovery_models import ROOT, machine
from pruning import CPU, Setting, setting_of, spread, tuned

from vitprune.circuit.metrics import kl_divergence
from vitprune.config import DistillationParams
from vitprune.device import keep_freed_memory
from vitprune.model import load_model
from vitprune.model.predict import predict
from vitprune.model.score import score

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


def recovered(given: Setting, folder: Path, options: dict[str, object], seed: int, epochs: int) -> dict[str, float]:
    """Validation figures of the pruned model after fine-tuning with a loss."""
    saved = load_model(folder / "models" / "pruned")
    tuned(given, saved.model, seed, epochs, distillation=DistillationParams(**PLAIN | options))
    val, preprocessing = given.packed.val, given.baseline.preprocessing
    logits = predict(saved.model, val.images, preprocessing, device=CPU)
    theirs = predict(copy.deepcopy(given.baseline.model), val.images, preprocessing, device=CPU)
    found = score(logits, val.labels)
    return {"accuracy": 100 * found.accuracy, "loss": found.loss, "kl": kl_divergence(theirs, logits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "recovery.md")
    arguments = parser.parse_args()
    keep_freed_memory()
    given, epochs = setting_of(arguments.folder), arguments.epochs
    many = f"{arguments.seeds} seed{'s' if arguments.seeds > 1 else ''}"
    lines = [
        f"## {given.params.data.source}, {epochs} epoch{'s' if epochs > 1 else ''}, {many}",
        "",
        f"{machine()}. Validation images; the teacher is the baseline.",
        "",
        "| loss | accuracy, % | cross-entropy | KL from the baseline |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, options in LOSSES.items():
        sys.stderr.write(f"{name}\n")
        found = [recovered(given, arguments.folder, options, seed, epochs) for seed in range(arguments.seeds)]
        cells = [
            spread([each[key] for each in found], digits) for key, digits in (("accuracy", 2), ("loss", 3), ("kl", 4))
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    text = "\n".join(lines) + "\n"
    before = arguments.output.read_text() if arguments.output.is_file() else "# Losses of fine-tuning\n"
    arguments.output.write_text(f"{before}\n{text}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
