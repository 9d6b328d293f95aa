"""Ranks, as real processes, find what one process finds."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ranks.jobs import JOBS
from vitprune.core.compute.distributed import World

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_ranks(size: int, folder: Path, *jobs: str) -> Path:
    """Run jobs on so many ranks, each told of the others as torchrun does; returns the folder of what they saved."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    command = [sys.executable, "-m", "tests.ranks.jobs", str(folder), *jobs]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * size
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """What this process alone finds."""
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    torch.set_num_threads(1)
    for job in ("training", "discovery", "prediction"):
        JOBS[job](folder)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """What three ranks find; they cannot share batches of 8 evenly, nor batches of 2 at all without leaving one out."""
    return on_ranks(3, tmp_path_factory.mktemp("three"), *JOBS)


def test_training_on_ranks_gives_the_losses_and_weights_of_one(one, three):
    alone, shared = (torch.load(folder / "training.pt") for folder in (one, three))
    torch.testing.assert_close(torch.tensor(shared["records"]), torch.tensor(alone["records"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(shared["weights"], alone["weights"], rtol=0, atol=1e-4)


def test_discovery_on_ranks_finds_the_same_circuits(one, three):
    alone, shared = (torch.load(folder / "discovery.pt") for folder in (one, three))
    for name, (kept, kl) in alone["kept"].items():
        assert shared["kept"][name][0] == kept, name
        assert shared["kept"][name][1] == pytest.approx(kl, abs=1e-6)
    actions, metrics = zip(*alone["damages"], strict=True)
    shared_actions, shared_metrics = zip(*shared["damages"], strict=True)
    assert shared_actions == actions
    assert shared_metrics == pytest.approx(metrics, abs=1e-6)
    assert 0 < len(alone["kept"]["acdc"][0]) < len(actions)


@pytest.mark.parametrize("rank", range(3))
def test_every_rank_gets_all_logits_in_order(one, three, rank):
    alone, shared = torch.load(one / "prediction0.pt"), torch.load(three / f"prediction{rank}.pt")
    torch.testing.assert_close(shared["logits"], alone["logits"], rtol=0, atol=1e-6)
    assert shared["order"].tolist() == [0, 1, 2, 3, 4]


def test_ranks_of_a_compiled_model_do_not_drop_the_same_for_their_different_images(three):
    masks = [torch.load(three / f"compiled{rank}.pt") for rank in range(3)]
    assert len({mask.shape for mask in masks}) == 1
    assert not any(torch.equal(masks[rank], masks[rank - 1]) for rank in range(3))


def test_a_rank_that_ends_has_left_its_group(three):
    # Otherwise the group's threads abort one process in ten at its end, once its work is done.
    assert [(three / f"left{rank}").read_text() for rank in range(3)] == ["True"] * 3


@pytest.mark.parametrize(("count", "size"), [(10, 3), (2, 5), (7, 7), (0, 2)])
def test_shares_are_every_row_once(count, size):
    rows = [row for rank in range(size) for row in range(count)[World(rank, size).share_of(count)]]
    assert rows == list(range(count))


def test_rounds_of_fine_tuning_on_ranks_end_in_the_same_model(three):
    first, *others = (torch.load(three / f"rounds{rank}.pt") for rank in range(3))
    assert all(torch.equal(first, other) for other in others)
