"""A model of another configuration is refused before anything is computed or written."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.run_command import assert_one_sentence, run_stage
from vitprune.core.model import Preprocessing, SavedModel, ViT, ViTConfig, save_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """Digits as the pipeline packs them, and an untrained model of the shape in params.yaml."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", folder)
    for stage in ("download", "clean"):
        done = run_stage(stage, folder)
        assert done.returncode == 0, done.stderr
    dataset = json.loads((folder / "data/clean/dataset.json").read_text())
    model = yaml.safe_load((folder / "params.yaml").read_text())["model"]
    shape = {key: model[key] for key in ("patch_size", "d_model", "num_layers", "num_heads", "d_mlp", "drop_path")}
    config = ViTConfig(image_size=8, in_channels=1, num_classes=10, **shape)
    preprocessing = Preprocessing(mean=tuple(dataset["mean"]), std=tuple(dataset["std"]))
    saved = SavedModel(model=ViT(config), preprocessing=preprocessing, class_names=tuple(dataset["class_names"]))
    save_model(folder / "models/baseline", saved)
    return folder


@pytest.fixture
def project(made_once, tmp_path):
    return shutil.copytree(made_once, tmp_path / "project")


@pytest.mark.fault("a model of another shape than the params say", "it is refused before anything is computed")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("d_model", 96, "(d_model 64, but params and data say 96)"),
        ("num_layers", 2, "(num_layers 4,"),
    ],
)
def test_a_model_of_another_shape_is_refused(project, key, value, message):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["model"][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("acdc", "finetune", "evaluate"):
        done = run_stage(stage, project)
        assert_one_sentence(done, f"models/baseline: was made with another configuration {message}")
    assert not (project / "models/pruned").exists()


@pytest.mark.fault("weights that are no weights", "the file is named")
def test_broken_weights_are_named(project):
    (project / "models/baseline/model.safetensors").write_bytes(b"nonsense")
    assert_one_sentence(run_stage("acdc", project), "models/baseline/model.safetensors: does not fit config.json")
