"""The acdc stage: data/clean, models/baseline → models/circuit, models/pruned, plots/faithfulness.*."""

from pathlib import Path

from stages import run
from vitprune.commands.acdc import acdc


def main() -> None:
    acdc(
        params=Path("params.yaml"),
        data=Path("data/clean"),
        baseline=Path("models/baseline"),
        circuit=Path("models/circuit"),
        pruned=Path("models/pruned"),
        metrics=Path("metrics/acdc.json"),
        timing=Path("metrics/acdc_timing.json"),
        faithfulness=Path("plots/faithfulness.csv"),
        picture=Path("plots/faithfulness.png"),
        journal=Path(".vitprune/acdc.jsonl"),
    )


if __name__ == "__main__":
    run(main)
