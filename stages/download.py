"""The download stage: data.source → data/raw."""

from stages import run
from vitprune.commands.download import download

if __name__ == "__main__":
    run(download)
