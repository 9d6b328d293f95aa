"""Models and images that belong to other params are refused before anything is computed or written."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.run_command import assert_one_sentence, run_stage
from vitprune.commands.inputs import open_data
from vitprune.core.model import Preprocessing, SavedModel, ViT, ViTConfig, save_model
from vitprune.errors import DataError
from vitprune.params import load_params

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
    change(project, "model", key, value)
    for stage in ("acdc", "finetune", "evaluate"):
        done = run_stage(stage, project)
        assert_one_sentence(done, f"models/baseline: was made with another configuration {message}")
    assert not (project / "models/pruned").exists()


@pytest.mark.fault("weights that are no weights", "the file is named")
def test_broken_weights_are_named(project):
    (project / "models/baseline/model.safetensors").write_bytes(b"nonsense")
    assert_one_sentence(run_stage("acdc", project), "models/baseline/model.safetensors: does not fit config.json")


@pytest.mark.fault("packed images that other params made: another size, another split", "every stage refuses them")
@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("data", "image_size", 12, "data.image_size: 8, but params say 12"),
        ("data", "channels", 3, "data.channels: 1, but params say 3"),
        ("data", "source", "fashion-mnist", "data.source: digits, but params say fashion-mnist"),
        ("clean", "seed", 7, "clean.seed: 0, but params say 7"),
        ("clean", "near_duplicates", "drop", "clean.near_duplicates: report, but params say drop"),
    ],
)
def test_images_made_with_other_params_are_refused(project, section, key, value, message):
    change(project, section, key, value)
    for stage in ("train", "acdc", "prune", "finetune", "evaluate"):
        assert_one_sentence(
            run_stage(stage, project), f"data/clean: was made with {message}; run the clean stage again"
        )


def test_images_that_do_not_say_what_made_them_are_used_if_their_shape_fits(project):
    """Of packed data that were written in Python, the shape is known, and nothing else."""
    (project / "data/clean/.made-by-vitprune").unlink()
    path = project / "data/clean/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made_with": {}}))
    change(project, "clean", "seed", 7)
    params = load_params(project / "params.yaml")
    assert open_data(project / "data/clean", params).image_size == 8
    change(project, "data", "image_size", 12)
    with pytest.raises(DataError, match=r"made with data\.image_size: 8, but params say 12"):
        open_data(project / "data/clean", load_params(project / "params.yaml"))


def change(project, section, key, value):
    """Change one param of the project."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params))
