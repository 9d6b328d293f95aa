"""``compute.processes``: the commands start their own ranks, and behave towards the user as on one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from tests.pipeline.conftest import ROOT, SMALL, Workspace, wait_for
from tests.run_command import run_stage
from vitprune.circuit import Circuit
from vitprune.core.compute.distributed import World
from vitprune.core.compute.launch import check_processes, ranks_on_this_machine, started_rank
from vitprune.errors import ConfigError

pytestmark = pytest.mark.slow

CHANGES = SMALL | {
    "train.epochs": 4,
    # Muon makes more of what is rounded differently: after four epochs another image may be right.
    "train.optimizer": "adamw",
    "model.drop_path": 0.1,
    "model.dropout": 0.1,
    "train.augment.mixup_alpha": 0.4,
    "acdc.tau": 0.001,
    "prune.timing_batch_size": 2,
    "compute.device": "cpu",
    "compute.threads": 1,
}
STAGES = ("train", "acdc", "prune", "finetune", "evaluate")


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command in a folder; its output is read as text."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-m", *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status, and all that was said."""
    out, error = process.communicate(timeout=300)
    return process.returncode, out + error


def on_one(folder: Path, stage: str) -> None:
    done = run_stage(stage, folder)
    assert done.returncode == 0, done.stderr


def on_two(folder: Path, stage: str) -> None:
    status, said = finished(started(folder, f"stages.{stage}"))
    assert status == 0, said


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two folders in which the pipeline has run: on one process, which is this one, and on two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    shutil.copy2(ROOT / "params.yaml", one)
    Workspace(one).set_params(CHANGES)
    for stage in ("download", "clean"):
        on_one(one, stage)
    shutil.copytree(one, two, dirs_exist_ok=True)
    Workspace(two).set_params({"compute.processes": 2})
    for stage in STAGES:
        on_one(one, stage)
        on_two(two, stage)
    return one, two


def numbers(value: object, name: str = "") -> dict[str, float]:
    """All numbers in metrics by their dotted names, but for speeds, which are the clock's."""
    if isinstance(value, dict):
        found = [numbers(inner, f"{name}.{key}") for key, inner in value.items() if "speedup" not in key]
        return {dotted: number for inner in found for dotted, number in inner.items()}
    return {name: float(value)} if isinstance(value, int | float) else {}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_on_two_processes_finds_what_it_finds_on_one(folders, name):
    one, two = (numbers(json.loads((folder / "metrics" / f"{name}.json").read_text())) for folder in folders)
    assert one
    assert two.keys() == one.keys()
    images = json.loads((folders[0] / "metrics" / "clean.json").read_text())["images"]
    for dotted, number in one.items():
        # Rounded differently, one image may be on the other side.
        split = next((split for split in ("train", "val") if f".{split}." in dotted), "test")
        tolerance = 1.01 / images[split] if dotted.endswith((".accuracy", ".top5")) else 2e-4
        if dotted.endswith((".f", ".cpr", ".cmd")):
            # The strongest other class of one image may be another; for a model that was hardly trained that is much.
            tolerance = 0.05
        assert two[dotted] == pytest.approx(number, abs=tolerance), dotted


def test_a_pipeline_on_two_processes_finds_the_same_circuit_and_leaves_no_states(folders):
    one, two = (Circuit.load(folder / "models" / "circuit") for folder in folders)
    assert two.kept == one.kept
    assert not list(folders[1].glob(".vitprune/*"))


@pytest.mark.fault("SIGTERM and Ctrl-C to several processes that train", "the next run ends with the same weights")
def test_ranks_that_are_stopped_go_on_to_the_same_weights(folders, tmp_path):
    shutil.copytree(folders[1] / "data", tmp_path / "data")
    shutil.copy2(folders[1] / "params.yaml", tmp_path)
    # Saved after each step, the state is there long before the end.
    Workspace(tmp_path).set_params({"train.checkpoint_minutes": 1e-6})
    state = tmp_path / ".vitprune" / "train.pt"
    earlier: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        process = started(tmp_path, "stages.train")
        wait_for(lambda: state.exists() and state.stat().st_mtime_ns not in earlier)
        process.send_signal(number)
        status, said = finished(process)
        assert status == 128 + number, said
        earlier.append(state.stat().st_mtime_ns)
    on_two(tmp_path, "train")
    weights = Path("models", "baseline", "model.safetensors")
    assert (tmp_path / weights).read_bytes() == (folders[1] / weights).read_bytes()


@pytest.mark.fault("an error that all of several processes meet", "it is said once")
def test_an_error_of_all_ranks_is_said_once(folders, tmp_path):
    shutil.copy2(folders[1] / "params.yaml", tmp_path)
    status, said = finished(started(tmp_path, "stages.train"))
    assert (status, said.count("error:")) == (1, 1), said
    assert "data/clean" in said
    assert "Traceback" not in said


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a command has started."""
    return psutil.Process(process.pid).children(recursive=True)


def wait_until_started(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the ranks once the first one has said that it has met the other."""
    assert process.stderr is not None
    assert process.stderr.readline() == "started\n"
    return ranks_of(process)


@pytest.mark.fault(
    "the death of one of several processes: an error, a bug, no memory, a kill",
    "one sentence names the process and the reason, the status is 1, and no process is left",
)
@pytest.mark.parametrize(
    ("how", "rank", "message"),
    [
        ("error", 1, r"only this one fails"),
        ("bug", 0, r"process 0 of 2 failed \(ZeroDivisionError: a bug of two lines, .*failing\.py line \d+\)"),
        ("exit", 1, r"process 1 of 2 ended with status 3 \(what it says\)"),
        ("kill", 1, r"process 1 of 2 was ended by SIGKILL, as the system does when memory runs out; if so, lower .*"),
    ],
)
def test_the_failure_of_a_rank_is_said_in_one_sentence_and_ends_all(how, rank, message):
    process = started(ROOT, "tests.ranks.failing", how, str(rank))
    ranks = wait_until_started(process)
    status, said = finished(process)
    assert status == 1, said
    assert re.fullmatch(f"error: {message}\n", said), said
    assert not any(map(psutil.Process.is_running, ranks))


@pytest.mark.fault("SIGKILL of the command that started several processes", "they end with it")
def test_ranks_end_with_the_process_that_started_them():
    process = started(ROOT, "tests.ranks.failing", "not", "0")
    ranks = wait_until_started(process)
    assert len(ranks) == 2
    process.kill()
    _, left = psutil.wait_procs(ranks, timeout=20)
    assert left == []
    process.communicate()


@pytest.mark.fault(
    "a second SIGTERM or Ctrl-C while several processes save their state", "all end at once, and no process is left"
)
def test_a_second_signal_ends_ranks_that_are_still_saving():
    number = signal.SIGINT
    process = started(ROOT, "tests.ranks.failing", "slow", "0")
    ranks = wait_until_started(process)
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline() == "saving\n"
    process.send_signal(number)
    status, said = finished(process)
    assert (status, said) == (128 + number, "interrupted\n")
    assert not any(map(psutil.Process.is_running, ranks))


def test_more_processes_than_cores_are_refused():
    with pytest.raises(ConfigError, match=r"compute\.processes is 9999, but there are \d+ CPU cores here; lower it"):
        check_processes(9999, torch.device("cpu"))
    check_processes(1, torch.device("cpu"))


@pytest.fixture
def bare(monkeypatch):
    """No launcher's environment variables."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_torchruns_ranks_are_joined(bare):
    assert started_rank() is None
    for name, value in {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1", "MASTER_PORT": "1"}.items():
        bare.setenv(name, value)
    assert started_rank() is None
    bare.setenv("MASTER_ADDR", "localhost")
    # Also where srun started torchrun.
    bare.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert started_rank() == World(rank=5, size=8, local_rank=1)
    assert ranks_on_this_machine(World(5, 8, 1)) == 8
    bare.setenv("LOCAL_WORLD_SIZE", "4")
    assert ranks_on_this_machine(World(5, 8, 1)) == 4
    bare.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="RANK, WORLD_SIZE, LOCAL_RANK are not all numbers"):
        started_rank()


def test_tasks_of_srun_without_torchrun_are_refused(bare):
    bare.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigError, match="srun started several tasks, but only torchrun makes them one run"):
        started_rank()
