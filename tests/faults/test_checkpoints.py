"""A model of another configuration is refused before anything is computed or written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vitprune.model import Preprocessing, SavedModel, ViT, ViTConfig, save_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Digits as the pipeline packs them, and an untrained model of the shape in params.yaml."""
    folder = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for command in ("download", "clean"):
        done = run(folder, command)
        assert done.returncode == 0, done.stderr
    dataset = json.loads((folder / "data/clean/dataset.json").read_text())
    shape = {key: params["model"][key] for key in ("patch_size", "d_model", "num_layers", "num_heads", "d_mlp")}
    config = ViTConfig(image_size=8, in_channels=1, num_classes=10, drop_path=params["model"]["drop_path"], **shape)
    preprocessing = Preprocessing(mean=tuple(dataset["mean"]), std=tuple(dataset["std"]))
    saved = SavedModel(model=ViT(config), preprocessing=preprocessing, class_names=tuple(dataset["class_names"]))
    save_model(folder / "models/baseline", saved)
    return folder


def run(folder, command, *arguments):
    line = [sys.executable, "-m", "vitprune", command, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "d_model",
            96,
            "(d_model 64, but params and data say 96)",
        ),
        ("num_layers", 2, "(num_layers 4,"),
    ],
)
def test_a_model_of_another_shape_is_refused(project, tmp_path, key, value, message):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["model"][key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    for command in ("acdc", "finetune", "evaluate"):
        done = run(project, command, "--params", str(path))
        assert done.returncode == 1
        assert f"models/baseline: was made with another configuration {message}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (project / "models/pruned").exists()


def test_broken_weights_are_named(project, tmp_path):
    broken = tmp_path / "baseline"
    broken.mkdir()
    (broken / "config.json").write_text((project / "models/baseline/config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"nonsense")
    done = run(project, "acdc", "--baseline", str(broken))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{broken / 'model.safetensors'}: does not fit config.json" in line
