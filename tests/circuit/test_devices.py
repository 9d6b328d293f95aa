"""Devices without double precision, such as Apple's MPS."""

import pytest
import torch
from torch import Tensor, nn

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation, discover
from vitprune.circuit.faithfulness import FaithfulnessMeter
from vitprune.circuit.metrics import METRICS, kl_divergence


class WithoutDoubles(Tensor):
    """A tensor that refuses double precision, as MPS does, until it is moved to the CPU; results are of its kind."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        result = super().__torch_function__(function, types, args, kwargs)
        written = args[0] if function is Tensor.__setitem__ else result
        if isinstance(written, Tensor) and written.dtype == torch.float64:
            raise TypeError(f"{function.__name__}: the device has no float64")
        return result


@pytest.fixture
def on_device():
    """A model and images on such a device."""
    model = random_model(1, dtype=torch.float32, num_layers=1)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().as_subclass(WithoutDoubles))
    return model, random_images(model, count=2).as_subclass(WithoutDoubles)


def test_the_stand_in_refuses_doubles(on_device):
    _, images = on_device
    doubles = torch.zeros(images.shape, dtype=torch.float64)
    for refused in (
        lambda: images.double(),
        lambda: (images * 2).to(torch.float64),
        lambda: images.sum(dtype=torch.float64),
        lambda: doubles.copy_(images),
        lambda: doubles.__setitem__(0, images[0]),
    ):
        with pytest.raises(TypeError, match="no float64"):
            refused()
    assert type(images.cpu().double()) is Tensor


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *(("acdc", {"tau": 0.01, "metric": metric}) for metric in METRICS),
        ("acdc", {"tau": 0.01, "granularity": "node-edge", "batch_size": 1, "candidates": 2}),
        ("hybrid", {"tau": 0.01}),
        ("eap", {"num_edges": 9}),
        ("eap-ig", {"num_edges": 9}),
        ("activation", {"num_edges": 9}),
    ],
)
def test_every_method_gets_by_without_doubles(on_device, method, options):
    model, images = on_device
    assert discover(model, images, method, ablation=Ablation.zero(model), **options).kl >= 0


def test_faithfulness_is_measured_without_doubles(on_device):
    model, images = on_device
    circuit = discover(model, images, "activation", ablation=Ablation.zero(model), num_edges=9)
    labels = model(images).argmax(dim=1)
    measured = FaithfulnessMeter(model, images, labels, circuit).measure(circuit.keep_mask)
    assert measured.kl == pytest.approx(kl_divergence(model(images), circuit.logits(model, images)))
