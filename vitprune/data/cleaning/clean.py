"""From the raw folder to packed data: open, decode, select and pack the images.

Nothing is written unless all of it succeeds. The same source and params give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitprune.data.cleaning.collection import Collection
from vitprune.data.cleaning.images import digest, to_square
from vitprune.data.cleaning.manifest import Metrics, count_files, write_manifest
from vitprune.data.cleaning.packing import SplitContent, Spool, open_spool, write_packed
from vitprune.data.cleaning.selection import select
from vitprune.data.cleaning.sources import open_raw
from vitprune.data.options import CleanOptions, DataOptions
from vitprune.errors import DataError
from vitprune.options import Resize
from vitprune.storage import atomic_folder


def clean(
    raw: Path, out: Path, data: DataOptions, params: CleanOptions, on_progress: Callable[[int, int], None]
) -> Metrics:
    """Clean the raw folder into packed data and ``manifest.csv`` at ``out``; returns the counts of ``count_files``.

    Raises DataError if the raw folder is missing or of another source, if its layout is not understood, or as
    ``select`` does.
    """
    collection = open_raw(raw, data)
    layout = collection.layout
    if len(layout.class_names) < 2:
        raise DataError(f"{raw}: classes {list(layout.class_names)}; at least two are needed")
    with atomic_folder(out) as partial:
        shape = (data.channels, data.image_size, data.image_size)
        with open_spool(partial / "spool.bin", shape) as spool:
            digests = _decode_all(collection, spool, data.image_size, params.resize, on_progress)
            selection = select(layout, digests, params)
            write_packed(
                partial,
                {
                    split: SplitContent(blocks=spool.blocks(chosen), labels=selection.labels[chosen])
                    for split, chosen in selection.splits.items()
                },
                class_names=[layout.class_names[folder] for folder in selection.class_folders],
                class_folders=selection.class_folders,
                image_size=data.image_size,
                channels=data.channels,
                resize=params.resize,
            )
        write_manifest(partial, layout, selection)
    return count_files(layout, selection)


def _decode_all(
    collection: Collection,
    spool: Spool,
    image_size: int,
    resize: Resize,
    on_progress: Callable[[int, int], None],
) -> list[bytes | None]:
    """Write every image that can be decoded to the spool; returns the digests, None where undecodable."""
    total = len(collection.layout.images)
    digests: list[bytes | None] = [None] * total
    for done, (index, pixels) in enumerate(collection.read(), start=1):
        if pixels is not None:
            digests[index] = digest(pixels)
            spool.write(index, to_square(pixels, image_size, resize))
        on_progress(done, total)
    return digests
