"""Small real images and archives."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from vitprune.core.packed import PackedData, load_packed
from vitprune.data.cleaning.clean import clean
from vitprune.data.download.fetch import check_path, fetch
from vitprune.data.options import CleanOptions, DataOptions
from vitprune.storage import atomic_folder, write_json


def image_bytes(seed: int, *, size: tuple[int, int] = (10, 10), mode: str = "RGB", format: str = "PNG") -> bytes:
    """An image file whose pixels depend on the seed."""
    rng = np.random.default_rng(seed)
    width, height = size
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def class_folders(
    prefix: str = "", *, classes: tuple[str, ...] = ("cats", "dogs"), count: int = 10
) -> dict[str, bytes]:
    """``count`` different images for each class."""
    start = sum(map(ord, prefix)) * 1000
    return {
        f"{prefix}{name}/{number:02}.png": image_bytes(start + 100 * label + number)
        for label, name in enumerate(classes)
        for number in range(count)
    }


def write_zip(path: Path, files: Mapping[str, bytes | str | None]) -> Path:
    """A zip of these files; None makes a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name if content is not None else f"{name}/", content or b"")
    return path


def write_tar(path: Path, files: Mapping[str, bytes | str | None], mode: str = "w") -> Path:
    """A tar of these files; None makes a folder."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
                continue
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def data_params(**changes: Any) -> DataOptions:
    values: dict[str, Any] = {
        "source": "archive",
        "path": "unused",
        "kaggle_handle": "somebody/images",
        "image_size": 8,
        "channels": 3,
    }
    return DataOptions(**(values | changes))


def clean_params(**changes: Any) -> CleanOptions:
    values: dict[str, Any] = {
        "resize": "crop",
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "seed": 0,
        "max_dropped_fraction": 0.05,
        "empty_classes": "error",
        "near_duplicates": "report",
        "max_pixels": 120_000_000,
        "max_members": 4_000_000,
        "max_unpacked_gb": 1000,
        "max_compression_ratio": 300,
    }
    return CleanOptions(**(values | changes))


def fetch_raw(out: Path, **data: Any) -> DataOptions:
    """Fetch a source as the download command does, into a folder that appears whole or not at all."""
    options = data_params(**data)
    check_path(options, out)
    with atomic_folder(out) as partial:
        fetch(options, partial, lambda done, total: None)
    return options


def clean_raw(folder: Path, data: DataOptions, **changes: Any) -> PackedData:
    """Clean ``folder/raw`` into ``folder/clean`` as the clean command does, with the counts in ``clean.json``."""
    counts = clean(folder / "raw", folder / "clean", data, clean_params(**changes), lambda done, total: None)
    write_json(folder / "clean.json", counts)
    return load_packed(folder / "clean")


def write_idx(path: Path, values: np.ndarray, *, kind: int = 8) -> Path:
    """A gzipped idx file, the format of Fashion-MNIST; kind 8 is uint8."""
    header = struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))
    return path


@pytest.fixture(scope="session")
def project_params() -> dict[str, Any]:
    """The content of the project's own params.yaml."""
    return yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text("utf-8"))


@pytest.fixture
def params_file(tmp_path: Path, project_params: dict[str, Any]) -> Callable[..., Path]:
    """Write the project's own params.yaml with other values in its ``data`` and ``clean`` sections."""

    def write(*, clean: Mapping[str, Any] | None = None, **data: Any) -> Path:
        content = project_params | {
            "data": project_params["data"] | {"image_size": 8, "channels": 3} | data,
            "clean": project_params["clean"] | (clean or {}),
        }
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content), "utf-8")
        return path

    return write


@pytest.fixture
def small_fashion_mnist(tmp_path: Path) -> Path:
    """Fashion-MNIST in miniature: 40 training and 10 test images."""
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 10)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return folder
