"""The train stage: data/clean → models/baseline."""

from pathlib import Path

from stages import run
from vitprune.commands.train import train


def main() -> None:
    train(
        params=Path("params.yaml"),
        data=Path("data/clean"),
        out=Path("models/baseline"),
        metrics=Path("metrics/train.json"),
        timing=Path("metrics/train_timing.json"),
        history=Path("plots/train.csv"),
        gradient_flow=Path("plots/gradient_flow.csv"),
        augmented=Path("plots/augmented.png"),
        state=Path(".vitprune/train.pt"),
    )


if __name__ == "__main__":
    run(main)
