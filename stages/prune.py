"""The prune stage: data/clean, models/baseline, models/circuit → models/pruned, models/latency.json."""

from pathlib import Path

from stages import run
from vitprune.commands.prune import prune


def main() -> None:
    prune(
        params=Path("params.yaml"),
        data=Path("data/clean"),
        baseline=Path("models/baseline"),
        circuit=Path("models/circuit"),
        out=Path("models/pruned"),
        metrics=Path("metrics/prune.json"),
        trace=Path("plots/prune.csv"),
        latency=Path("models/latency.json"),
    )


if __name__ == "__main__":
    run(main)
