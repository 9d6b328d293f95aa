import torch
from hypothesis import given
from hypothesis import strategies as st

from vitprune.circuit.engine.plan import SumOfSenders


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 10_000))
def test_sums_are_those_of_the_kept_rows(receivers, senders, density, seed):
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(receivers, senders, generator=generator) < density
    written = torch.randn(senders, 7, generator=generator, dtype=torch.float64)
    expected = torch.stack([written[kept].sum(dim=0) for kept in keep])
    assert torch.allclose(SumOfSenders(keep, written)(written), expected, rtol=0, atol=1e-12)
