from dataclasses import replace
from itertools import product

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from tests.pretrained.foreign import noise, small_timm
from vitprune.core.model import ViT
from vitprune.errors import ConfigError
from vitprune.pretrained import from_timm
from vitprune.pretrained.adapt import adapt, resample_positions


@pytest.fixture
def model():
    return from_timm(small_timm())


def test_positions_are_resampled_as_timm_does():
    for old, new in [(2, 7), (7, 2), (14, 8), (3, 3), (4, 1)]:
        positions = torch.randn(1 + old**2, 6, generator=torch.Generator().manual_seed(old))
        expected = resample_abs_pos_embed(positions[None], new_size=[new, new], num_prefix_tokens=1)[0]
        torch.testing.assert_close(resample_positions(positions, new), expected)


def test_a_model_for_larger_images_is_the_one_that_timm_makes():
    original = small_timm()
    converted = from_timm(original)
    larger = adapt(converted, replace(converted.config, image_size=40)).eval()
    original.set_input_size((40, 40))
    larger.classifier.load_state_dict(converted.classifier.state_dict())
    images = noise(larger)
    with torch.no_grad():
        torch.testing.assert_close(larger(images), original(images), rtol=1e-4, atol=1e-4)


def test_grey_images_are_taken_as_rgb_images_with_equal_channels(model):
    grey = adapt(model, replace(model.config, in_channels=1)).eval()
    images = noise(grey)
    torch.testing.assert_close(grey.embed(images), model.embed(images.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("channels", [1, 3])
def test_both_patch_embeddings_are_filled_from_either(model, channels):
    expected = adapt(model, replace(model.config, in_channels=channels))
    images = noise(expected)
    for first, then in product(("linear", "conv"), repeat=2):
        between = adapt(model, replace(model.config, patch_embedding=first))
        adapted = adapt(between, replace(model.config, patch_embedding=then, in_channels=channels))
        torch.testing.assert_close(adapted.embed(images), expected.embed(images))


def test_the_classifier_is_drawn_as_that_of_a_new_vit(model):
    config = replace(model.config, num_classes=9)
    adapted = adapt(model, config, torch.Generator().manual_seed(3))
    new = ViT(config)
    new.initialise(torch.Generator().manual_seed(3))
    assert torch.equal(adapted.classifier.weight, new.classifier.weight)
    assert torch.equal(adapted.classifier.bias, torch.zeros(9))
    assert torch.equal(adapted.norm.weight, model.norm.weight)


def test_every_field_that_differs_is_named_with_the_value_to_set(model):
    wanted = replace(model.config, d_model=64, num_heads=4, image_size=32, dropout=0.1)
    with pytest.raises(
        ConfigError, match=r"its shape differs; set model\.d_model to 16 \(not 64\), model\.num_heads to 2 \(not 4\)$"
    ):
        adapt(model, wanted)


def test_a_grey_model_cannot_be_adapted_to_colour(model):
    grey = adapt(model, replace(model.config, in_channels=1))
    with pytest.raises(ConfigError, match=r"it reads 1 channels; set data\.channels to 1, not 3"):
        adapt(grey, model.config)


def test_shifted_patches_cannot_be_pretrained(model):
    with pytest.raises(ConfigError, match=r"set model\.patch_embedding to linear or conv"):
        adapt(model, replace(model.config, patch_embedding="shifted"))
