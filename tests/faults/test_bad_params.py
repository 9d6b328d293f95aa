"""A wrong parameter ends a stage in one sentence that names it, with status 1, and touches nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    """A working directory with params and with outputs of an earlier run."""
    for name in ("data/raw", "data/clean", "models/baseline", "models/pruned"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "earlier").write_text("kept")
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def run_stage(project, stage):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(project)}
    command = [sys.executable, "-m", f"stages.{stage}"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def assert_one_sentence(done, *parts):
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("stage", ["download", "clean", "train", "acdc", "finetune", "evaluate"])
def test_every_stage_refuses_an_unknown_parameter(project, stage):
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["acdc"]["treshold"] = 0.1
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    assert_one_sentence(run_stage(project, stage), "params.yaml", "acdc.treshold is not a known parameter")
    assert {path.read_text() for path in project.rglob("earlier")} == {"kept"}
    assert len(list(project.rglob("earlier"))) == 4


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("acdc", "tau", -1, "acdc.tau must be greater than or equal to 0, got -1"),
        ("acdc", "tau", float("nan"), "acdc.tau must be a finite number, got nan"),
        ("model", "d_model", 65, "model.d_model (65) is not divisible by model.num_heads (4)"),
        ("model", "patch_size", 3, "data.image_size (8) is not divisible by model.patch_size (3)"),
        ("data", "source", "mnist", "data.source must be 'digits'"),
        ("train", "epochs", "many", "train.epochs must be a valid integer, got 'many'"),
        ("compute", "device", "gpu", "compute.device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
    ],
)
def test_an_impossible_value_is_named(project, section, key, value, message):
    content = yaml.safe_load((project / "params.yaml").read_text())
    content[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    assert_one_sentence(run_stage(project, "train"), message)


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("clean", "data/raw"),
        ("train", "data/clean/dataset.json"),
        ("acdc", "data/clean/dataset.json"),
        ("finetune", "data/clean/dataset.json"),
        ("evaluate", "data/clean/dataset.json"),
    ],
)
def test_a_missing_input_is_named(project, stage, file):
    assert_one_sentence(run_stage(project, stage), file)


def test_the_folder_of_an_archive_that_is_not_there_is_named(project):
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["data"] |= {"source": "archive", "path": "nowhere.zip"}
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    assert_one_sentence(run_stage(project, "download"), "nowhere.zip", "data.path")
