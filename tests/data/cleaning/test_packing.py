from pathlib import Path

import numpy as np
import pytest

from vitprune.core.packed import SPLITS, load_packed
from vitprune.data.cleaning import packing
from vitprune.data.cleaning.packing import STD_FLOOR, SplitContent, open_spool, write_packed


def test_a_spool_returns_images_in_any_order_and_in_small_blocks(tmp_path: Path, monkeypatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), dtype=np.uint8)
    monkeypatch.setattr(packing, "BLOCK_BYTES", 2 * images[0].nbytes)
    with open_spool(tmp_path / "spool.bin", (3, 4, 5)) as spool:
        for index in (3, 0, 6, 1, 2, 5):
            spool.write(index, images[index])
        chosen = np.array([6, 0, 1, 5, 3])
        blocks = list(spool.blocks(chosen))
    assert [len(block) for block in blocks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), images[chosen])
    assert not (tmp_path / "spool.bin").exists()


def test_images_without_contrast_can_still_be_normalised(tmp_path: Path) -> None:
    content = SplitContent(blocks=[np.full((2, 3, 4, 4), 7, np.uint8)], labels=np.array([0, 1]))
    classes = ("cat", "dog")
    write_packed(
        tmp_path,
        dict.fromkeys(SPLITS, content),
        class_names=classes,
        class_folders=classes,
        image_size=4,
        channels=3,
    )
    assert load_packed(tmp_path).std == pytest.approx((STD_FLOOR,) * 3, abs=0)
