"""A wrong parameter ends a stage in one sentence that names it, with status 1, and touches nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.run_command import Done, assert_one_sentence, run_stage
from vitprune.storage import atomic_folder

ROOT = Path(__file__).parents[2]
STAGES = ("download", "clean", "train", "acdc", "prune", "finetune", "evaluate", "report")


@pytest.fixture
def project(tmp_path):
    """A working directory with params and with outputs of an earlier run."""
    for name in ("data/raw", "data/clean", "models/baseline", "models/pruned"):
        with atomic_folder(tmp_path / name) as partial:
            (partial / "earlier").write_text("kept")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def set_param(project, section, key, value):
    content = yaml.safe_load((project / "params.yaml").read_text())
    content[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.slow
def test_a_stage_refuses_an_unknown_parameter_in_a_process_of_its_own(project):
    set_param(project, "acdc", "treshold", 0.1)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(project)}
    command = [sys.executable, "-m", "stages.train"]
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    done = Done(ended.returncode, ended.stdout, ended.stderr)
    assert_one_sentence(done, "params.yaml", "acdc.treshold is not a known parameter")


@pytest.mark.fault("an unknown parameter", "every stage refuses it, and its old outputs stay")
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_an_unknown_parameter_and_keeps_what_was_there(project, stage):
    set_param(project, "acdc", "treshold", 0.1)
    done = run_stage(stage, project)
    assert_one_sentence(done, "params.yaml", "acdc.treshold is not a known parameter")
    assert [path.read_text() for path in project.rglob("earlier")] == ["kept"] * 4


@pytest.mark.fault("a parameter with an impossible value", "it is refused with its name and value")
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
    set_param(project, section, key, value)
    assert_one_sentence(run_stage("train", project), message)


@pytest.mark.fault("the output of an earlier stage is missing", "it is named, and the command that makes it")
@pytest.mark.parametrize(
    ("stage", "file"),
    [("clean", "data/raw"), *((stage, "data/clean/dataset.json") for stage in STAGES[2:])],
)
def test_a_missing_input_is_named(project, stage, file):
    assert_one_sentence(run_stage(stage, project), file)


@pytest.mark.fault("data.path does not exist", "it is named")
def test_the_folder_of_an_archive_that_is_not_there_is_named(project):
    set_param(project, "data", "source", "archive")
    set_param(project, "data", "path", "nowhere.zip")
    assert_one_sentence(run_stage("download", project), "nowhere.zip", "data.path")
