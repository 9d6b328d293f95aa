from functools import partial

import pytest
from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig

from tests.pretrained.foreign import assert_same_logits, small_torchvision
from vitprune.errors import PretrainedError
from vitprune.pretrained import from_torchvision


def test_the_logits_are_the_same():
    original = small_torchvision()
    converted = from_torchvision(original)
    assert_same_logits(converted, original)
    config = converted.config
    assert (config.image_size, config.patch_size, config.in_channels, config.num_classes) == (16, 8, 3, 5)
    assert (config.d_model, config.num_layers, config.num_heads, config.d_mlp) == (16, 2, 2, 32)


@pytest.mark.parametrize("place", ["heads.head", "heads"])
def test_a_classifier_of_ones_own_comes_along(place):
    original = small_torchvision()
    own = nn.Linear(16, 3)
    if place == "heads":
        original.heads = own
    else:
        original.heads.head = own
    assert from_torchvision(original).config.num_classes == 3
    assert_same_logits(from_torchvision(original), original)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_stem_configs": [ConvStemConfig(8, 3, 8)]}, "a stem of several convolutions"),
        ({"representation_size": 7}, "a classifier with a hidden layer"),
        ({"norm_layer": partial(nn.LayerNorm, eps=1e-5)}, "layer norms with an epsilon of 1e-05"),
    ],
)
def test_unsupported_features_are_refused_by_name(changes, message):
    with pytest.raises(PretrainedError, match=message):
        from_torchvision(small_torchvision(**changes))


def test_a_changed_activation_is_noticed():
    original = small_torchvision()
    original.encoder.layers[1].mlp[1] = nn.ReLU()
    with pytest.raises(PretrainedError, match="its logits differ"):
        from_torchvision(original)


def test_another_model_is_refused_by_its_class():
    with pytest.raises(PretrainedError, match="it is a Identity, not a VisionTransformer of torchvision"):
        from_torchvision(nn.Identity())
