import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.circuit.oracle import random_images, random_model
from vitprune.evaluation.cost import multiply_adds, num_parameters


def counted(model, images):
    """Multiply-adds as PyTorch counts them, with attention written out so that it sees every product."""
    with FlopCounterMode(display=False) as counter, nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        model(images)
    return counter.get_total_flops() // 2


def test_multiply_adds_are_those_that_pytorch_counts():
    for shape in (
        {},
        {"patch_embedding": "conv", "in_channels": 3},
        {"patch_embedding": "shifted", "in_channels": 3, "pooling": "mean"},
        {"patch_embedding": "shifted", "positions": "sincos"},
        {"num_layers": 3, "heads_per_layer": (2, 0, 1), "neurons_per_layer": (0, 7, 12), "token_biases": True},
    ):
        model = random_model(dtype=torch.float32, **shape)
        assert multiply_adds(model.config) == counted(model, random_images(model, count=1))


def test_parameters_are_counted_once():
    model = random_model(num_layers=1)
    assert num_parameters(model) == sum(tensor.numel() for tensor in model.state_dict().values())
    fixed = random_model(num_layers=1, positions="sincos")
    assert num_parameters(model) - num_parameters(fixed) == model.positions.numel()
