"""Fashion-MNIST in four gzipped idx files: 60,000 training and 10,000 test images of clothes, grey, 28×28.

Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from vitprune.data.raw.folder import FASHION_MNIST_BY_HAND, FASHION_MNIST_FILES, read_idx
from vitprune.errors import DataError, DownloadError

logger = logging.getLogger(__name__)


def fetch(folder: Path, path: Path | None, cache: Path) -> list[str]:
    """Copy the four files into ``folder``, from ``path`` or else from torchvision's mirrors; returns their names.

    Downloads are kept in ``cache``. Raises DataError if a file is missing or broken, and DownloadError if one cannot
    be downloaded.
    """
    origin = path if path is not None else _download(cache / "fashion-mnist")
    names = [name for pair in FASHION_MNIST_FILES.values() for name in pair]
    for name in names:
        if not (origin / name).is_file():
            raise DataError(f"data.path: {origin} has no {name}; it must hold {', '.join(names)}")
        shutil.copyfile(origin / name, folder / name)
    for images, labels in FASHION_MNIST_FILES.values():
        read_idx(folder / images, "images")
        read_idx(folder / labels, "labels")
    return names


def _download(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    for name, md5 in FashionMNIST.resources:
        failures = []
        for mirror in FashionMNIST.mirrors:
            try:
                # A file that is already there with the right checksum is not downloaded again.
                download_url(f"{mirror}{name}", str(folder), filename=name, md5=md5)
                break
            except (OSError, RuntimeError, ValueError) as error:
                failures.append(str(error))
                logger.debug("%s: %s", name, error)
        else:
            raise DownloadError(
                f"Fashion-MNIST: {name} could not be downloaded ({'; '.join(failures)}); {FASHION_MNIST_BY_HAND}"
            )
    return folder
