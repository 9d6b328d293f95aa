"""Two ranks, as real processes, find what one finds."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitprune.distributed import World

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_ranks(job: str, folder: Path, environments: list[dict[str, str]]) -> None:
    """Run a job on one rank for each environment."""
    command = [sys.executable, "-m", "tests.ranks.jobs", job, str(folder)]
    ranks = [subprocess.Popen(command, cwd=ROOT, env=os.environ | each) for each in environments]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * len(ranks)


def torchrun(size: int) -> list[dict[str, str]]:
    """What torchrun tells each rank."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def slurm(size: int) -> list[dict[str, str]]:
    """What srun tells each rank of a step on one node."""
    step = {"SLURM_STEP_NUM_TASKS": str(size), "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": str(free_port())}
    return [step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(size)]


def found(job: str, folder: Path, environments: list[dict[str, str]], name: str = "found.pt") -> dict:
    folder.mkdir()
    on_ranks(job, folder, environments)
    return torch.load(folder / name, weights_only=True)


@pytest.mark.parametrize("launcher", [torchrun, slurm])
def test_training_on_two_ranks_gives_the_losses_of_one(tmp_path, launcher):
    one, two = found("training", tmp_path / "one", [{}]), found("training", tmp_path / "two", launcher(2))
    assert torch.tensor(two["records"]).allclose(torch.tensor(one["records"]), rtol=0, atol=1e-5)
    for name, tensor in one["weights"].items():
        assert two["weights"][name].allclose(tensor, rtol=0, atol=1e-4), name


def test_three_ranks_share_batches_that_leave_one_of_them_without_images(tmp_path):
    one, three = found("training", tmp_path / "one", [{}]), found("training", tmp_path / "three", torchrun(3))
    assert torch.tensor(three["records"]).allclose(torch.tensor(one["records"]), rtol=0, atol=1e-5)


def test_discovery_on_two_ranks_finds_the_same_circuits(tmp_path):
    one, two = found("discovery", tmp_path / "one", [{}]), found("discovery", tmp_path / "two", torchrun(2))
    for name, (kept, kl) in one["kept"].items():
        assert two["kept"][name][0] == kept, name
        assert two["kept"][name][1] == pytest.approx(kl, abs=1e-6)
    assert [action for action, _ in one["damages"]] == [action for action, _ in two["damages"]]
    assert [after for _, after in two["damages"]] == pytest.approx([after for _, after in one["damages"]], abs=1e-6)
    assert 0 < len(one["kept"]["acdc"][0]) < len(one["damages"])


@pytest.mark.parametrize("name", ["found0.pt", "found1.pt"])
def test_every_rank_gets_all_logits_in_order(tmp_path, name):
    one = found("prediction", tmp_path / "one", [{}], "found0.pt")
    two = found("prediction", tmp_path / "two", torchrun(2), name)
    for mine, theirs in zip(one["logits"], two["logits"], strict=True):
        assert mine.allclose(theirs, rtol=0, atol=1e-6)
    assert two["order"].tolist() == [0, 1, 2, 3, 4]


RANK_THAT_ENDS = """
import atexit
import torch
import torch.distributed as dist
from vitprune.distributed import World, join
atexit.register(lambda: print("in a group" if dist.is_initialized() else "left"))
join(World(0, 1), torch.device("cpu"))
assert dist.is_initialized()
"""


def test_a_rank_that_ends_has_left_its_group(tmp_path):
    # Otherwise the group's threads abort one process in ten at its end, once its work is done.
    meeting = torchrun(1)[0]
    ended = subprocess.run(
        [sys.executable, "-c", RANK_THAT_ENDS], cwd=ROOT, env=os.environ | meeting, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, "left\n"), ended.stderr


@pytest.mark.parametrize(("count", "size"), [(10, 3), (2, 5), (7, 7), (0, 2)])
def test_shares_are_every_row_once(count, size):
    rows = [row for rank in range(size) for row in range(count)[World(rank, size).share_of(count)]]
    assert rows == list(range(count))
