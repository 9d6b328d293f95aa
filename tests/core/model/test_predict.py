from __future__ import annotations

import numpy as np
import pytest
import torch

from vitprune.core.model import Preprocessing, ViT, ViTConfig
from vitprune.core.model.predict import evaluation_mode, predict

PREPROCESSING = Preprocessing(mean=(0.4,), std=(0.2,))
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def model() -> ViT:
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        in_channels=1,
        num_classes=3,
        d_model=8,
        num_layers=1,
        num_heads=2,
        d_mlp=8,
        dropout=0.5,
    )
    model = ViT(config)
    model.initialise(torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_does_not_matter(model: ViT, batch_size: int) -> None:
    with torch.no_grad():
        expected = model.eval()(PREPROCESSING(torch.from_numpy(IMAGES)))
    torch.testing.assert_close(predict(model, IMAGES, PREPROCESSING, batch_size, "cpu"), expected)


def test_arrays_and_tensors_give_the_same_logits(model: ViT) -> None:
    from_array, from_tensor = (
        predict(model, images, PREPROCESSING, 4, torch.device("cpu")) for images in (IMAGES, torch.from_numpy(IMAGES))
    )
    assert torch.equal(from_array, from_tensor)


def test_read_only_arrays_are_fine(model: ViT) -> None:
    images = IMAGES.copy()
    images.flags.writeable = False
    assert predict(model, images, PREPROCESSING, 4, "cpu").shape == (7, 3)


def test_no_images_give_no_rows(model: ViT) -> None:
    assert predict(model, IMAGES[:0], PREPROCESSING, 4, "cpu").shape == (0, 3)


def test_dropout_is_off_and_every_submodule_gets_its_mode_back(model: ViT) -> None:
    model.train()
    model.blocks[0].eval()
    first, second = (predict(model, IMAGES, PREPROCESSING, 4, "cpu") for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert not model.blocks[0].training


def test_the_mode_comes_back_after_an_exception(model: ViT) -> None:
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert model.training


def test_a_batch_size_of_zero_is_refused(model: ViT) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(model, IMAGES, PREPROCESSING, 0, "cpu")
