"""The evaluate stage: data/clean and all models → metrics/evaluate.json, metrics/timing.json, the table."""

from pathlib import Path

from stages import run
from vitprune.commands.evaluate import evaluate


def main() -> None:
    evaluate(
        params=Path("params.yaml"),
        data=Path("data/clean"),
        baseline=Path("models/baseline"),
        pruned=Path("models/pruned"),
        finetuned=Path("models/finetuned"),
        circuit=Path("models/circuit"),
        metrics=Path("metrics/evaluate.json"),
        timing=Path("metrics/timing.json"),
        table=Path("metrics/table.md"),
        confusion=Path("plots/confusion.png"),
    )


if __name__ == "__main__":
    run(main)
