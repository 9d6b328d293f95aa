from __future__ import annotations

import math
from itertools import pairwise

import pytest

from vitprune.errors import ConfigError
from vitprune.training.schedule import WarmupCosine


def test_the_rate_rises_linearly_and_reaches_its_peak_when_the_warm_up_ends() -> None:
    rate = WarmupCosine(peak=0.8, warmup_steps=4, total_steps=20)
    assert [rate(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rate(4) == pytest.approx(0.8)


def test_the_rate_is_half_the_peak_halfway_down_and_almost_zero_at_the_end() -> None:
    rate = WarmupCosine(peak=0.8, warmup_steps=4, total_steps=20)
    assert rate(12) == pytest.approx(0.4)
    assert rate(8) == pytest.approx(0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert 0 < rate(19) < 0.01


def test_a_warm_up_need_not_be_whole_steps() -> None:
    rate = WarmupCosine(peak=1.0, warmup_steps=2.5, total_steps=10)
    assert [rate(step) for step in range(3)] == pytest.approx([0.4, 0.8, 1.0])
    assert rate(3) == pytest.approx((1 + math.cos(math.pi * 0.5 / 7.5)) / 2)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert WarmupCosine(peak=0.3, warmup_steps=0, total_steps=5)(0) == 0.3


def test_the_rate_never_exceeds_the_peak_and_never_rises_after_it() -> None:
    rate = WarmupCosine(peak=1.0, warmup_steps=7.3, total_steps=50)
    rates = [rate(step) for step in range(50)]
    assert max(rates) <= 1
    assert all(later <= earlier for earlier, later in pairwise(rates[8:]))


@pytest.mark.parametrize("warmup_steps", [-1.0, 5.0, 6.0])
def test_a_warm_up_that_does_not_end_is_refused(warmup_steps: float) -> None:
    with pytest.raises(ConfigError, match="lower warmup_epochs"):
        WarmupCosine(peak=1.0, warmup_steps=warmup_steps, total_steps=5)
