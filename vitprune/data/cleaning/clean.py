"""From the raw folder to packed data: open, decode, select and pack the images.

Nothing is written unless all of it succeeds. The same source and params give the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitprune.core.packed import FULL_DEPTH
from vitprune.data.cleaning.collection import Collection
from vitprune.data.cleaning.examine import Findings, Treatment, examine_all
from vitprune.data.cleaning.manifest import (
    Metrics,
    count_files,
    log_counts,
    write_manifest,
    write_near_duplicates,
    write_quality,
)
from vitprune.data.cleaning.near_duplicates import NearPair, drop_copies, find_near_duplicates
from vitprune.data.cleaning.packing import SplitContent, Spool, open_spool, write_packed
from vitprune.data.cleaning.selection import Selection, audit, select
from vitprune.data.cleaning.sources import open_raw
from vitprune.data.options import CleanOptions, DataOptions, made_with
from vitprune.errors import DataError
from vitprune.storage import atomic_folder

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def clean(raw: Path, out: Path, data: DataOptions, params: CleanOptions, on_progress: Progress) -> Metrics:
    """Clean the raw folder into packed data at ``out``, with ``manifest.csv`` and other tables of what was found.

    Returns the counts of ``count_files``. Raises DataError if the raw folder is missing or of another source, if its
    layout is not understood, or as ``select`` does.
    """
    collection = open_raw(raw, data, params)
    layout = collection.layout
    if len(layout.class_names) < 2:
        raise DataError(f"{raw}: classes {list(layout.class_names)}; at least two are needed")
    with atomic_folder(out) as partial:
        shape = (data.channels, data.image_size, data.image_size)
        treatment = Treatment(
            image_size=data.image_size, channels=data.channels, resize=params.resize, max_pixels=params.max_pixels
        )
        with open_spool(partial / "spool.bin", shape) as spool:
            findings, treatment = _decode_all(collection, spool, treatment, on_progress)
            selection, pairs = _select(collection, findings, spool, params)
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
                bit_depth=treatment.bit_depth,
                made_with=made_with(data, params),
            )
        write_manifest(partial, layout, selection, findings)
        write_near_duplicates(partial, layout, selection, pairs)
        write_quality(partial, layout, selection, findings)
    counts = count_files(layout, selection, findings, pairs)
    log_counts(counts)
    return counts


def _decode_all(
    collection: Collection, spool: Spool, treatment: Treatment, on_progress: Progress
) -> tuple[Findings, Treatment]:
    """Write every image that can be used to the spool; returns what was found, and how the images were treated.

    How many bits files with 16 for each sample really use is known when all have been read. Where it is fewer, those
    files are read once more.
    """
    findings = Findings(len(collection.layout.images))
    _decode(collection, range(len(collection.layout.images)), spool, treatment, findings, on_progress)
    bit_depth = findings.bit_depth
    if bit_depth is not None:
        logger.info(
            "%d images have 16 bits for each sample, of which the data set uses %d: %d is white",
            len(findings.peaks),
            bit_depth,
            (1 << bit_depth) - 1,
        )
        treatment = replace(treatment, bit_depth=bit_depth)
        if bit_depth < FULL_DEPTH:
            _decode(collection, list(findings.peaks), spool, treatment, findings, on_progress)
    return findings, treatment


def _decode(
    collection: Collection,
    wanted: range | list[int],
    spool: Spool,
    treatment: Treatment,
    findings: Findings,
    on_progress: Progress,
) -> None:
    contents = collection.read(wanted if isinstance(wanted, range) else frozenset(wanted))
    for done, (index, result) in enumerate(examine_all(contents, treatment), start=1):
        findings.add(index, result)
        if not isinstance(result, Exception):
            spool.write(index, result.square)
        on_progress(done, len(wanted))


def _select(
    collection: Collection, findings: Findings, spool: Spool, params: CleanOptions
) -> tuple[Selection, list[NearPair]]:
    images = collection.layout.images
    verdicts = audit(images, findings.digests, findings.faults)
    kept = np.array([index for index, verdict in enumerate(verdicts) if verdict.kept], np.int64)
    pairs = find_near_duplicates(spool, kept, images)
    if params.near_duplicates == "drop":
        verdicts = drop_copies(pairs, images, verdicts)
    return select(collection.layout, verdicts, params), pairs
