"""The prune stage: data/clean, models/baseline, models/circuit → models/pruned, models/latency.json."""

from stages import run
from vitprune.commands.prune import prune

if __name__ == "__main__":
    run(prune)
