"""Which models count as fast enough when measurements are noisy. No clock decides here."""

import itertools
import logging

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from tests.pruning import speeds
from tests.recipes.conftest import CPU, OPTIONS
from tests.training.conftest import PREPROCESSING, tiny_model
from vitprune.circuit import Ablation
from vitprune.core.compute.stopwatch import TimingProtocol
from vitprune.core.model import SavedModel
from vitprune.errors import PruningError
from vitprune.pruning import cutting, measurements
from vitprune.pruning.fold import Fold
from vitprune.pruning.measurements import SpeedMeter
from vitprune.pruning.reach_speedup import Pruned, reach_speedup
from vitprune.pruning.search import SpeedSearch

PROTOCOL = TimingProtocol(device=CPU, batch_size=16, warmup=2, rounds=9)


def reach(target: float) -> tuple[Pruned, float]:
    """The model that is found, and how fast it is without noise."""
    model = random_model(1, dtype=torch.float32, scale=1.0, image_size=16, d_model=32, num_layers=4, d_mlp=64)
    images = random_images(model, count=16)
    fold = Fold.mean(Ablation.mean(model, images), model)
    meter = SpeedMeter(model, 8, PROTOCOL)
    search = SpeedSearch(model, images, fold, meter.table(), 8)
    pruned = reach_speedup(search, model, fold, target, meter)
    return pruned, speeds.speedup(model, pruned.model)


@pytest.fixture
def noisy(monkeypatch):
    """Makes the measurements of every model differ from what is true by the factors given, in turn."""

    def of_factors(*factors: float) -> None:
        speeds.take_speeds_from_shapes(monkeypatch)
        turns: dict[object, itertools.cycle[float]] = {}

        def measured(baseline, small, _):
            shape = (small.config.layer_heads, small.config.layer_neurons)
            return speeds.speedup(baseline, small) * next(turns.setdefault(shape, itertools.cycle(factors)))

        monkeypatch.setattr(measurements, "measured_speedup", measured)

    return of_factors


def test_without_noise_the_target_is_met_and_not_exceeded_by_much(noisy):
    noisy(1.0)
    assert 2 <= reach(2.0)[1] < 2.2


def test_one_lucky_measurement_does_not_make_a_model_fast(noisy):
    noisy(1.1, 1.0)
    assert reach(2.0)[1] >= 2


def test_one_unlucky_measurement_makes_no_model_too_slow_for_ever(noisy):
    noisy(1.0, 0.97)
    assert 2 <= reach(2.0)[1] < 2.2


def test_a_speed_that_no_model_has_names_the_best(noisy):
    noisy(1.0)
    with pytest.raises(PruningError, match=r"target_speedup 10000 cannot be reached .* \d+\.\d\d times as fast"):
        reach(10_000)


@pytest.mark.parametrize(("last", "warns"), [(0.9, True), (1.0, False)])
def test_a_model_that_is_too_slow_when_measured_once_more_does_not_pass_in_silence(
    packed, noisy, monkeypatch, caplog, last, warns
):
    search_target = cutting.search_target

    def search_then_slow_down(*args, **kwargs):
        noisy(1.0)
        pruned = search_target(*args, **kwargs)
        noisy(last)
        return pruned

    monkeypatch.setattr(cutting, "search_target", search_then_slow_down)
    saved = SavedModel(
        model=tiny_model(d_model=32, d_mlp=64, num_layers=4).eval(),
        preprocessing=PREPROCESSING,
        class_names=packed.class_names,
    )
    options = OPTIONS.prune.model_copy(update={"target_speedup": 2.0, "group_size": 8, "fold": "mean"})
    with caplog.at_level(logging.WARNING):
        found = cutting.prune_to_target(packed, saved, options, CPU)
    assert (found.metrics["measured_speedup"] < 1.96) == warns
    assert ("prune.target_speedup 2 was met" in caplog.text) == warns
