"""The clean stage: data/raw → data/clean."""

from stages import run
from vitprune.commands.clean import clean

if __name__ == "__main__":
    run(clean)
