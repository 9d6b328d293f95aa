"""The evaluate stage: data/clean and all models → metrics/evaluate.json, metrics/timing.json, the table."""

from stages import run
from vitprune.commands.evaluate import evaluate

if __name__ == "__main__":
    run(evaluate)
