"""The acdc stage: data/clean, models/baseline → models/circuit."""

from pathlib import Path

from stages import run
from vitprune.commands.acdc import acdc


def main() -> None:
    acdc(
        params=Path("params.yaml"),
        data=Path("data/clean"),
        baseline=Path("models/baseline"),
        out=Path("models/circuit"),
        metrics=Path("metrics/acdc.json"),
        timing=Path("metrics/acdc_timing.json"),
        faithfulness=Path("plots/faithfulness.csv"),
        journal=Path(".vitprune/acdc.jsonl"),
    )


if __name__ == "__main__":
    run(main)
