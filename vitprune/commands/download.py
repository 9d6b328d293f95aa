"""``vitprune download``: a source of images, kept as it came."""

import logging
from pathlib import Path

from vitprune.commands.options import OutFolder, ParamsFile


def download(params: ParamsFile = Path("params.yaml"), out: OutFolder = Path("data/raw")) -> None:
    """Fetch the images that params.yaml names under data, and write down what came."""
    from vitprune.commands.progress import progress
    from vitprune.data.download.fetch import check_path, fetch
    from vitprune.params import load_params
    from vitprune.storage import atomic_folder, check_targets

    options = load_params(params)
    data = options.data
    check_path(data, out)
    check_targets(folders=[out])
    # What comes over the network is known by its size, what lies here by its number.
    unit = "bytes" if data.source == "kaggle" and data.path is None else "files"
    with atomic_folder(out) as partial, progress(f"download {data.source}", unit) as on_progress:
        fetch(data, partial, on_progress, options.clean.archive_limits)
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    logging.getLogger(__name__).info("%s: %.1f MB are in %s", data.source, sum(sizes) / 1e6, out)
