"""Our Muon against PyTorch's, and its iteration against the polynomial of the singular values."""

import pytest
import torch
from torch import nn

from vitprune.training.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalised

SHAPES = [(12, 8), (8, 12), (12, 8), (5, 5)]


def matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def with_gradients(parameters, seed):
    for parameter, gradient in zip(parameters, matrices(seed), strict=True):
        parameter.grad = gradient.detach()


def test_it_takes_the_steps_of_pytorchs_own():
    ours, theirs = matrices(), matrices()
    optimisers = (
        Muon(ours, lr=0.01, weight_decay=0.3),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(4):
        for parameters, optimiser in zip((ours, theirs), optimisers, strict=True):
            with_gradients(parameters, seed=step + 1)
            optimiser.step()
        for group in (optimiser.param_groups[0] for optimiser in optimisers):
            group["lr"] *= 0.7
    for start, one, other in zip(matrices(), ours, theirs, strict=True):
        # Theirs rounds to three digits.
        assert (one - other).norm() < 0.02 * (one - start).norm()


@pytest.mark.parametrize("shape", [(3, 4, 7), (2, 7, 4), (1, 5, 5)])
def test_the_iteration_is_a_polynomial_of_the_singular_values(shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(given.double(), full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    first, second, third = COEFFICIENTS
    for _ in range(ITERATIONS):
        values = first * values + second * values**3 + third * values**5
    expected = left @ torch.diag_embed(values) @ right
    torch.testing.assert_close(orthogonalised(given).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_gradient_of_zero_turns_nothing():
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_parameters_without_a_gradient_stay():
    parameters = matrices()
    optimiser = Muon(parameters, lr=0.01, weight_decay=0.3)
    with_gradients(parameters, seed=1)
    parameters[0].grad = None
    optimiser.step()
    assert torch.equal(parameters[0], matrices()[0])
    assert not torch.equal(parameters[2], matrices()[2])
