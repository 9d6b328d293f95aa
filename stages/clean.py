"""The clean stage: data/raw → data/clean."""

from pathlib import Path

from stages import run
from vitprune.commands.clean import clean


def main() -> None:
    clean(
        params=Path("params.yaml"),
        raw=Path("data/raw"),
        out=Path("data/clean"),
        metrics=Path("metrics/clean.json"),
    )


if __name__ == "__main__":
    run(main)
