"""Find images that differ by next to nothing: another JPEG quality, another size, a grey level here and there.

Two images are near duplicates if their squares, reduced to the lower frequencies and freed of brightness and contrast,
are vectors of length 1 that lie within DISTANCE of each other. The few lowest frequencies alone never lie farther
apart, so that a tree of these proposes all candidates.
Legend of dimensions: n  images    c  channels    s  image_size    k  frequencies in each direction
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from vitprune.data.cleaning.collection import ImageFile
from vitprune.data.cleaning.packing import Spool
from vitprune.data.cleaning.selection import Reason, Verdict

logger = logging.getLogger(__name__)

DISTANCE = 0.06
"""No two of scikit-learn's digits are this close (0.11), and few of Fashion-MNIST; a JPEG of quality 75 mostly is."""
FREQUENCIES, LOWEST = 16, 4
MIN_CONTRAST = 6.0
"""Of images with a smaller standard deviation, in grey levels, nothing but noise could be compared."""
MAX_CANDIDATES = 50
"""For each image, on average: more would not be near duplicates, but images that are all alike."""
_SAMPLE, _PAIRS_AT_ONCE = 2000, 4096
_RANK = {"test": 0, "val": 1, "train": 2}
"""The image of the lower rank stays, as of exact copies."""


@dataclass(frozen=True, kw_only=True)
class NearPair:
    """Two images, of which ``copy`` gives way to ``original``, and how far apart they are."""

    original: int
    copy: int
    distance: float


def find_near_duplicates(spool: Spool, indices: np.ndarray, images: Sequence[ImageFile]) -> list[NearPair]:
    """All pairs of near duplicates among the images at ``indices``, sorted."""
    if not len(indices):
        return []
    vectors = _in_blocks(spool, indices, _lowest)
    # A vector of zeros has no contrast.
    compared = np.flatnonzero(vectors.any(axis=1))
    if len(compared) < 2:
        return []
    candidates = np.sort(indices[compared[_neighbours(vectors[compared])]], axis=1)
    # In the order of the spool, which is read fastest so, and the same whatever the tree looks like.
    candidates = candidates[np.lexsort(candidates.T[::-1])]
    pairs = []
    for start in range(0, len(candidates), _PAIRS_AT_ONCE):
        chosen = candidates[start : start + _PAIRS_AT_ONCE]
        first, second = (_in_blocks(spool, chosen[:, side], _normalised) for side in (0, 1))
        distances = np.linalg.norm(first - second, axis=1)
        for (one, other), apart in zip(chosen.tolist(), distances.tolist(), strict=True):
            if apart <= DISTANCE:
                original, copy = sorted((one, other), key=lambda index: (_RANK[images[index].split], index))
                pairs.append(NearPair(original=original, copy=copy, distance=apart))
    return pairs


def _neighbours(vectors: np.ndarray) -> np.ndarray:
    """Pairs ``(any, 2)`` of vectors within DISTANCE, or less if there are too many to look at."""
    tree, distance = KDTree(vectors), DISTANCE
    sample = vectors[:: max(1, len(vectors) // _SAMPLE)]
    while tree.query_ball_point(sample, distance, return_length=True).mean() > 1 + 2 * MAX_CANDIDATES:
        distance /= 2
    if distance < DISTANCE:
        logger.warning("the images are so much alike that only the nearest of near duplicates are looked for")
    return tree.query_pairs(distance, output_type="ndarray").reshape(-1, 2)


def _in_blocks(spool: Spool, indices: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([function(block) for block in spool.blocks(indices)])


def _normalised(block: np.ndarray) -> np.ndarray:
    """Vectors ``(n, c·k·k)`` of length 1 of images ``(n, c, s, s)``; zeros for those without contrast."""
    size = block.shape[-1]
    cosines = _cosines(min(FREQUENCIES, size), size)
    spectrum = cosines @ block.astype(np.float32) @ cosines.T
    # Brightness is the mean over all channels; one channel against the others is colour.
    spectrum[:, :, 0, 0] -= spectrum[:, :, 0, 0].mean(axis=1, keepdims=True)
    vectors = spectrum.reshape(len(block), -1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    has_contrast = lengths >= MIN_CONTRAST * np.sqrt(block[0].size)
    return np.where(has_contrast, vectors / np.maximum(lengths, 1), 0)


def _lowest(block: np.ndarray) -> np.ndarray:
    """The LOWEST frequencies of the mean channel of these images' vectors, ``(n, LOWEST²)``."""
    channels, size = block.shape[1], block.shape[-1]
    kept = min(FREQUENCIES, size)
    spectrum = _normalised(block).reshape(len(block), channels, kept, kept)[:, :, :LOWEST, :LOWEST]
    # Divided by √c and not by c: this projection is orthonormal, so that distances do not grow.
    return (spectrum.sum(axis=1) / np.sqrt(channels)).reshape(len(block), -1)


def _cosines(frequencies: int, size: int) -> np.ndarray:
    """The first rows of the orthonormal discrete cosine transform, ``(frequencies, size)``."""
    angles = np.pi * np.arange(frequencies)[:, None] * (2 * np.arange(size) + 1) / (2 * size)
    scale = np.where(np.arange(frequencies) == 0, 1, np.sqrt(2))[:, None] / np.sqrt(size)
    return (scale * np.cos(angles)).astype(np.float32)


def drop_copies(pairs: Sequence[NearPair], images: Sequence[ImageFile], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Drop every near duplicate of an image that stays; verdicts on other images remain as they are."""
    dropped = list(verdicts)
    for pair in sorted(pairs, key=lambda pair: (_RANK[images[pair.copy].split], pair.copy, pair.original)):
        if dropped[pair.copy].kept and dropped[pair.original].kept:
            original, copy = images[pair.original], images[pair.copy]
            reason: Reason = "near duplicate"
            if original.split != copy.split:
                reason = "near duplicate in test" if original.split == "test" else "near duplicate in val"
            elif original.folder != copy.folder:
                reason = "near duplicate with conflicting label"
            dropped[pair.copy] = Verdict(reason=reason, duplicate_of=pair.original)
    return dropped
