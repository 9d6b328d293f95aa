"""``compute.processes``: the commands start their own ranks, and behave towards the user as on one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import ROOT, SMALL, Workspace, wait_for
from vitprune.circuit import Circuit

CHANGES = SMALL | {
    "train.epochs": 4,
    # Muon makes more of what is rounded differently: after four epochs another image may be right.
    "train.optimizer": "adamw",
    "model.drop_path": 0.1,
    "model.dropout": 0.1,
    "train.augment.mixup_alpha": 0.4,
    "acdc.tau": 0.001,
    "compute.device": "cpu",
}


def vitprune(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder; its output is read as text."""
    command = [sys.executable, "-m", "vitprune", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def done(folder: Path, *arguments: str) -> None:
    result = vitprune(folder, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with params and packed digits."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copy2(ROOT / "params.yaml", folder)
    Workspace(folder).set_params(CHANGES)
    done(folder, "download")
    done(folder, "clean")
    return folder


@pytest.fixture
def folders(prepared, tmp_path) -> tuple[Path, Path]:
    """Two copies of it: for one process, and for two."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(prepared, folder)
    Workspace(two).set_params({"compute.processes": 2})
    return one, two


def numbers(value: object) -> list[float]:
    """All numbers in metrics, in order."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    return [float(value)] if isinstance(value, int | float) else []


def test_a_pipeline_on_two_processes_finds_what_one_finds(folders):
    for command in ("train", "acdc", "finetune", "evaluate"):
        for folder in folders:
            done(folder, command)
    for name in ("train", "acdc", "finetune", "evaluate"):
        one, two = (json.loads((folder / "metrics" / f"{name}.json").read_text()) for folder in folders)
        assert numbers(two) == pytest.approx(numbers(one), abs=2e-4), name
    one, two = (Circuit.load(folder / "models" / "circuit") for folder in folders)
    assert two.kept == one.kept
    assert not list(folders[1].glob(".vitprune/*"))


def test_what_a_rank_says_is_said_once(folders):
    _, folder = folders
    shutil.rmtree(folder / "data" / "clean")
    result = vitprune(folder, "train")
    assert result.returncode == 1
    assert result.stderr.count("error:") == 1, result.stderr
    assert "data/clean" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute.processes": 1000}, "compute.processes is 1000, but there are"),
        ({"compute.processes": 2, "train.batch_size": 1}, "2 processes cannot share batches of 1 images"),
        ({"compute.processes": 0}, "compute.processes"),
    ],
)
def test_too_many_processes_are_refused(folders, changes, message):
    folder, _ = folders
    Workspace(folder).set_params(changes)
    result = vitprune(folder, "train")
    assert (result.returncode, result.stderr.count("error:")) == (1, 1), result.stderr
    assert message in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ranks_that_are_stopped_go_on_with_the_same_weights(folders, tmp_path, number):
    _, folder = folders
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(folder, undisturbed)
    done(undisturbed, "train")

    state = folder / ".vitprune" / "train.pt"
    with subprocess.Popen([sys.executable, "-m", "vitprune", "train"], cwd=folder, env=environment()) as process:
        wait_for(state.exists)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    assert state.exists()
    time.sleep(0.5)
    done(folder, "train")
    weights = [Path("models") / "baseline" / "model.safetensors"]
    assert all((folder / name).read_bytes() == (undisturbed / name).read_bytes() for name in weights)
    assert yaml.safe_load((folder / "params.yaml").read_text())["compute"]["processes"] == 2
