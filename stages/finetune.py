"""The finetune stage: data/clean, models/baseline, models/pruned → models/finetuned."""

from pathlib import Path

from stages import run
from vitprune.commands.finetune import finetune


def main() -> None:
    finetune(
        params=Path("params.yaml"),
        data=Path("data/clean"),
        baseline=Path("models/baseline"),
        pruned=Path("models/pruned"),
        latency=Path("models/latency.json"),
        out=Path("models/finetuned"),
        metrics=Path("metrics/finetune.json"),
        timing=Path("metrics/finetune_timing.json"),
        history=Path("plots/finetune.csv"),
        state=Path(".vitprune/finetune.pt"),
    )


if __name__ == "__main__":
    run(main)
