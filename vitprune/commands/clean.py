"""``vitprune clean``: from a source as it came to packed images."""

import logging
from pathlib import Path

from vitprune.commands.options import MetricsFile, OutFolder, ParamsFile, RawFolder


def clean(
    params: ParamsFile = Path("params.yaml"),
    raw: RawFolder = Path("data/raw"),
    out: OutFolder = Path("data/clean"),
    metrics: MetricsFile = Path("metrics/clean.json"),
) -> None:
    """Decode, audit, resize and split the images; write packed arrays and a manifest of every file."""
    from vitprune.commands.progress import progress
    from vitprune.data.cleaning.clean import clean as clean_raw
    from vitprune.params import load_params
    from vitprune.storage import check_targets, write_json

    options = load_params(params)
    check_targets(files=[metrics], folders=[out])
    with progress("decode", "images") as on_progress:
        counts = clean_raw(raw, out, options.data, options.clean, on_progress)
    logging.getLogger(__name__).info(
        "kept %d of %d images; %s says what became of each", counts["kept"], counts["found"], out / "manifest.csv"
    )
    write_json(metrics, counts)
