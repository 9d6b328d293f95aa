"""The acdc stage: data/clean, models/baseline → models/circuit."""

from stages import run
from vitprune.commands.acdc import acdc

if __name__ == "__main__":
    run(acdc)
