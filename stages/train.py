"""The train stage: data/clean → models/baseline."""

from stages import run
from vitprune.commands.train import train

if __name__ == "__main__":
    run(train)
