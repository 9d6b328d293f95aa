import time

import pytest
import torch
from torch import nn

from vitprune.errors import MeasurementError
from vitprune.evaluation.timing import time_loading, time_models


class Sleeper(nn.Module):
    """Takes a known time, and writes down when it was called."""

    def __init__(self, name, milliseconds, calls):
        super().__init__()
        self.name, self.milliseconds, self.calls = name, milliseconds, calls

    def forward(self, images):
        self.calls.append((self.name, self.training))
        time.sleep(self.milliseconds / 1000)
        return images


def test_models_take_turns_after_a_warm_up_in_evaluation_mode():
    calls = []
    models = {name: Sleeper(name, 0, calls).train() for name in "ABC"}
    time_models(models, torch.zeros(1), warmup=2, rounds=5)
    assert "".join(name for name, _ in calls) == "AABBCC" + "ABC" * 5
    assert not any(training for _, training in calls)
    assert all(model.training for model in models.values())


def test_latency_and_speedup_are_those_of_the_clock():
    models = {"slow": Sleeper("slow", 30, []), "fast": Sleeper("fast", 10, [])}
    latencies = time_models(models, torch.zeros(1), warmup=1, rounds=5)
    assert latencies["slow"].speedup == 1.0
    assert 30 <= latencies["slow"].median_ms <= latencies["slow"].p90_ms <= latencies["slow"].p99_ms
    # A sleep may last longer than asked for, never less.
    fast = latencies["fast"]
    assert fast.median_ms >= 10
    assert fast.speedup == pytest.approx(latencies["slow"].median_ms / fast.median_ms, rel=0.3)
    assert fast.speedup_p10 <= fast.speedup <= fast.speedup_p90


@pytest.mark.parametrize(("warmup", "rounds"), [(0, 10), (1, 4)])
def test_too_few_repetitions_are_refused(warmup, rounds):
    with pytest.raises(MeasurementError, match=f"{rounds} rounds after {warmup} warm-up passes"):
        time_models({"a": nn.Identity()}, torch.zeros(1), warmup=warmup, rounds=rounds)


def test_loading_is_timed_apart():
    def load():
        time.sleep(0.005)
        return torch.zeros(1)

    assert time_loading(load, warmup=1, rounds=5) >= 5
