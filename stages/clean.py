"""The clean stage: data/raw → data/clean."""

from pathlib import Path

from vitprune.commands.clean import clean

from stages import run


def main() -> None:
    clean(
        params=Path("params.yaml"),
        raw=Path("data/raw"),
        out=Path("data/clean"),
        metrics=Path("metrics/clean.json"),
    )


if __name__ == "__main__":
    run(main)
