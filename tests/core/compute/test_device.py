from __future__ import annotations

import pytest
import torch

from vitprune.core.compute.device import _THREADS, pick_device, set_threads
from vitprune.errors import ConfigError


def test_the_cpu_is_always_there() -> None:
    assert pick_device("cpu") == torch.device("cpu")


def test_auto_takes_an_accelerator_where_there_is_one() -> None:
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert (pick_device("auto").type != "cpu") == accelerated


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "CPU", "meta", "cuda:0 "])
def test_an_unknown_device_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"compute\.device must be auto, cpu, cuda, cuda:N or mps, got"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda:99", pytest.param("mps", marks=pytest.mark.skipif("sys.platform == 'darwin'"))])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"compute.device is '{name}'"):
        pick_device(name)


def test_the_number_of_threads_is_set_and_given_back() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
        set_threads(None)
        assert torch.get_num_threads() == _THREADS
    finally:
        torch.set_num_threads(before)
