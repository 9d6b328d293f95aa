"""The evaluate stage: data/clean, models → metrics/evaluate.json, metrics/timing.json, table and plot."""

from pathlib import Path

from stages import run
from vitprune.commands.evaluate import evaluate


def main() -> None:
    evaluate(
        params=Path("params.yaml"),
        data=Path("data/clean"),
        models=Path("models"),
        metrics=Path("metrics/evaluate.json"),
        timing=Path("metrics/timing.json"),
        table=Path("metrics/table.md"),
        confusion=Path("plots/confusion.png"),
    )


if __name__ == "__main__":
    run(main)
