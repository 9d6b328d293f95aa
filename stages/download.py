"""The download stage: data.source → data/raw."""

from pathlib import Path

from vitprune.commands.download import download

from stages import run


def main() -> None:
    download(
        params=Path("params.yaml"),
        out=Path("data/raw"),
    )


if __name__ == "__main__":
    run(main)
