import json
import math
import time
from dataclasses import replace

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.core.model import Preprocessing, SavedModel, load_model, save_model
from vitprune.errors import CheckpointError
from vitprune.storage import MARK, atomic_folder


@pytest.fixture
def folder(tmp_path):
    model = random_model(1, dtype=torch.float32)
    preprocessing = Preprocessing(mean=(0.4,), std=(0.3,))
    save_model(tmp_path / "m", SavedModel(model=model, preprocessing=preprocessing, class_names=("a", "b", "ü")))
    return tmp_path / "m"


def test_a_model_comes_back_as_it_was(folder):
    saved = load_model(folder)
    original = random_model(1, dtype=torch.float32)
    images = random_images(original)
    assert saved.class_names == ("a", "b", "ü")
    assert saved.preprocessing == Preprocessing(mean=(0.4,), std=(0.3,))
    assert not saved.model.training
    torch.testing.assert_close(saved.model(images), original(images))


def test_a_model_with_fixed_positions_and_no_class_token_comes_back_as_it_was(tmp_path):
    original = random_model(2, dtype=torch.float32, pooling="mean", positions="sincos", patch_embedding="shifted")
    images = random_images(original)
    preprocessing = Preprocessing(mean=(0.4,), std=(0.3,))
    save_model(tmp_path / "m", SavedModel(model=original, preprocessing=preprocessing, class_names=("a", "b", "c")))
    saved = load_model(tmp_path / "m")
    assert saved.model.config == original.config
    torch.testing.assert_close(saved.model(images), original(images))


def test_a_model_from_before_there_was_a_choice_has_learned_positions_and_a_class_token(folder):
    content = json.loads((folder / "config.json").read_text())
    for name in ("positions", "pooling"):
        del content["model"][name]
    (folder / "config.json").write_text(json.dumps(content))
    (folder / MARK).unlink()
    model = load_model(folder).model
    assert (model.config.positions, model.config.pooling) == ("learned", "class")
    images = random_images(model)
    torch.testing.assert_close(model(images), random_model(1, dtype=torch.float32)(images))


def test_preprocessing_scales_bytes_to_zero_mean_and_unit_deviation():
    values = Preprocessing(mean=(0.5,), std=(0.25,))(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    assert values.flatten().tolist() == [-2.0, 2.0]


def test_saving_replaces_the_folder_as_a_whole(folder):
    saved = load_model(folder)
    with atomic_folder(folder) as partial:
        (partial / "stray").touch()
    save_model(folder, saved)
    assert sorted(path.name for path in folder.iterdir()) == [".made-by-vitprune", "config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text('{"format": 1}'), "config.json: not a model config"),
        (lambda folder: (folder / "config.json").write_text('{"format": 99}'), "format 99, but this vitprune reads"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 50), "model.safetensors: does not fit"),
    ],
)
def test_a_damaged_folder_is_refused_with_its_file(folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def _set(content, *keys, to):
    *parents, last = keys
    for key in parents:
        content = content[key]
    content[last] = to


@pytest.mark.fault("a config.json of impossible or contradicting values", "it is refused before a model is built")
@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model", "num_layers"), 1_000_000, "num_layers must be at most 1000"),
        (("model", "num_layers"), True, r"model\.num_layers: Input should be a valid integer"),
        (("model", "d_model"), "8", r"model\.d_model: Input should be a valid integer"),
        (("model", "d_model"), 10**9, r"model\.safetensors: does not fit config\.json \(.* bytes for .* weights\)"),
        (("model", "image_size"), 10**9, "does not fit config"),
        (("model", "dropout"), math.nan, r"model\.dropout"),
        (("model", "heads_per_layer"), [9, 9], "heads_per_layer needs 2 counts from 0 to 2"),
        (("model", "depth"), 3, r"model\.depth: Unexpected keyword argument"),
        (("class_names",), ["a"], "1 class_names for 3 classes"),
        (("class_names",), ["a", "b", 3], r"class_names\.2: Input should be a valid string"),
        (("preprocessing", "mean"), [0.1, 0.2, 0.3], "mean and std must be 1 numbers each"),
        (("preprocessing", "std"), [0.0], "mean and std must be 1 numbers each, std above 0"),
        (("preprocessing", "std"), [math.inf], r"preprocessing\.std\.0"),
        (("resize",), "squeeze", "resize: Input should be 'crop' or 'stretch'"),
        (("author",), "x", "author: Extra inputs are not permitted"),
    ],
)
def test_a_config_that_cannot_be_is_refused_at_once(folder, keys, value, message):
    content = json.loads((folder / "config.json").read_text())
    _set(content, *keys, to=value)
    (folder / "config.json").write_text(json.dumps(content))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)
    assert time.monotonic() - start < 2


@pytest.mark.fault("a config.json that nests deeply, or is no object", "it is refused")
@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"a":' * 10**5, "[]", "3", "\ufeff{}", '{"format": ' + "9" * 5000 + "}"]
)
def test_a_config_that_is_no_config_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: not"):
        load_model(folder)


def test_a_model_says_how_its_training_images_became_square(tmp_path, folder):
    assert load_model(folder).resize is None
    save_model(tmp_path / "copy", replace(load_model(folder), resize="stretch"))
    assert load_model(tmp_path / "copy").resize == "stretch"


def test_weights_of_another_shape_are_refused(folder):
    content = json.loads((folder / "config.json").read_text())
    content["model"]["d_mlp"] = 5
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(folder)
