"""The download stage: data.source → data/raw."""

from pathlib import Path

from stages import run
from vitprune.commands.download import download


def main() -> None:
    download(
        params=Path("params.yaml"),
        out=Path("data/raw"),
    )


if __name__ == "__main__":
    run(main)
