from dataclasses import asdict
from pathlib import Path

import pytest

from tests.core.model.conftest import SHAPE
from vitprune.core.model import ViT, ViTConfig
from vitprune.errors import ConfigError
from vitprune.params import load_params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"d_model \(16\) is not divisible by num_heads \(3\)"),
        ({"patch_size": 3}, r"image_size \(8\) is not divisible by patch_size \(3\)"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"patch_embedding": "mlp"}, "patch_embedding must be one of linear, conv, shifted, got 'mlp'"),
        ({"positions": "rotary"}, "positions must be one of learned, sincos, got 'rotary'"),
        ({"pooling": "max"}, "pooling must be one of class, mean, got 'max'"),
        ({"positions": "sincos", "d_model": 6, "num_heads": 2}, r"d_model \(6\) is not divisible by 4"),
        ({"patch_embedding": "shifted", "patch_size": 1}, "patch_size 1 has no half to shift by"),
        ({"heads_per_layer": (4,)}, r"heads_per_layer needs 2 counts from 0 to 4, got \[4\]"),
        ({"heads_per_layer": (4, 5)}, r"heads_per_layer needs 2 counts from 0 to 4, got \[4, 5\]"),
        ({"num_layers": 1_000_000}, "num_layers must be at most 1000, got 1000000"),
        ({"dropout": float("nan")}, "dropout must be at least 0 and below 1, got nan"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1, got 1.0"),
    ],
)
def test_an_impossible_shape_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ViTConfig(**SHAPE | change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pooling": "mean", "positions": "sincos", "patch_embedding": "shifted"},
        {"heads_per_layer": (1, 0), "neurons_per_layer": (0, 5), "token_biases": True},
    ],
)
def test_the_matrices_and_positions_hold_nearly_all_weights(change):
    config = ViTConfig(**SHAPE | change)
    total = sum(tensor.numel() for tensor in ViT(config).state_dict().values())
    assert 0.8 * total < config.num_matrix_entries < total


def test_the_params_of_a_model_are_the_shape_of_its_config():
    options = load_params(Path(__file__).parents[3] / "params.yaml").model
    config = ViTConfig(image_size=8, in_channels=1, num_classes=10, **options.shape())
    decided = options.model_dump(exclude={"pretrained", "pretrained_path"})
    assert {name: asdict(config)[name] for name in decided} == decided
    by_data_or_pruning = {"image_size", "in_channels", "num_classes", "heads_per_layer", "neurons_per_layer"}
    assert asdict(config).keys() == decided.keys() | by_data_or_pruning | {"token_biases"}
