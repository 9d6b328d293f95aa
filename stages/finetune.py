"""The finetune stage: data/clean, models/baseline, models/pruned → models/finetuned."""

from stages import run
from vitprune.commands.finetune import finetune

if __name__ == "__main__":
    run(finetune)
