import time

import numpy as np
import pytest
import torch
from torch import nn

from vitprune.core.model import Preprocessing, SavedModel
from vitprune.core.packed import PackedData, Split
from vitprune.evaluation.options import EvaluateOptions
from vitprune.evaluation.timing import time_loading, time_models, time_pipeline

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still unless somebody works."""

    def __init__(self):
        self.now = 0.0

    def work(self, milliseconds):
        self.now += milliseconds / 1000


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class Worker(nn.Module):
    """Takes a known time, and notes each call with its mode and its images."""

    def __init__(self, name, milliseconds, clock, calls):
        super().__init__()
        self.name, self.milliseconds, self.clock, self.calls = name, milliseconds, clock, calls

    def forward(self, images):
        self.calls.append((self.name, self.training, tuple(images.shape)))
        self.clock.work(self.milliseconds)
        return images


def test_models_take_turns_after_a_warm_up_in_evaluation_mode(clock):
    calls = []
    models = {name: Worker(name, 1, clock, calls).train() for name in "ABC"}
    images = {name: torch.zeros(size) for name, size in zip("ABC", (1, 2, 3), strict=True)}
    time_models(models, images, warmup=2, rounds=5)
    assert "".join(name for name, _, _ in calls) == "AABBCC" + "ABC" * 5
    assert set(calls) == {("A", False, (1,)), ("B", False, (2,)), ("C", False, (3,))}
    assert all(model.training for model in models.values())


def test_latency_and_speedup_are_those_of_the_clock(clock):
    models = {"slow": Worker("slow", 30, clock, []), "fast": Worker("fast", 10, clock, [])}
    latencies = time_models(models, dict.fromkeys(models, torch.zeros(1)), warmup=1, rounds=5)
    assert (latencies["slow"].median_ms, latencies["slow"].speedup) == pytest.approx((30, 1))
    assert (latencies["fast"].median_ms, latencies["fast"].speedup) == pytest.approx((10, 3))


def test_loading_is_timed_apart(clock):
    def load():
        clock.work(5)
        return torch.zeros(1)

    assert time_loading(load, warmup=1, rounds=5) == pytest.approx(5)


def test_the_pipeline_times_every_model_at_every_batch_size_and_fetching_a_batch(clock):
    calls = []
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,))
    saved = {
        name: SavedModel(
            model=Worker(name, milliseconds, clock, calls), preprocessing=preprocessing, class_names=("a", "b")
        )
        for name, milliseconds in (("baseline", 8), ("baseline_pruned", 2))
    }
    split = Split(images=np.zeros((3, 1, 4, 4), np.uint8), labels=np.zeros(3, np.int64))
    packed = PackedData(train=split, val=split, test=split, class_names=("a", "b"), mean=(0.0,), std=(1.0,))
    options = EvaluateOptions(batch_size=8, timing_batch_sizes=(1, 5), timing_warmup=1, timing_rounds=6)
    timing = time_pipeline(saved, packed, options, CPU)
    assert list(timing) == ["baseline", "baseline_pruned", "loader", "machine", "dtype", "rounds", "warmup"]
    assert timing["baseline_pruned"]["batch_5"]["speedup"] == 4.0
    assert timing["baseline"]["batch_5"]["images_per_second"] == 625.0
    assert timing["loader"] == {"batch_1": {"median_ms": 0.0}, "batch_5": {"median_ms": 0.0}}
    # There are three test images: a batch of five repeats some.
    assert {shape for _, _, shape in calls} == {(1, 1, 4, 4), (5, 1, 4, 4)}
