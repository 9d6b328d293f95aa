import pytest
import torch

from vitprune.errors import ConfigError
from vitprune.training.compute import Compute, choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("wanted", ["fp32", "bf16", "fp16"])
def test_a_precision_that_is_named_is_taken(wanted):
    assert choose_precision(wanted, CPU) == wanted


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "avx512_f": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_is_bf16_where_the_processor_has_instructions_for_it(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_gpus_since_ampere(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", GPU) == expected


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match=r"compute\.precision fp16 needs a CUDA device.*cpu; use bf16 or fp32"):
        Compute(device=CPU, precision="fp16", seed=0)


@pytest.mark.parametrize(
    ("device", "precision", "deterministic", "flash"),
    [(CPU, "fp32", False, True), (CPU, "bf16", False, False), (GPU, "fp32", True, False)],
)
def test_kernels_are_chosen_by_device_and_precision_and_restored(device, precision, deterministic, flash):
    def chosen():
        return torch.backends.cudnn.deterministic, torch.backends.cuda.flash_sdp_enabled()

    before = chosen()
    with pytest.raises(KeyError), Compute(device=device, precision=precision, seed=0).kernels():
        assert chosen() == (deterministic, flash)
        raise KeyError
    assert chosen() == before == (False, True)
