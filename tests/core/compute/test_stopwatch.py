import numpy as np
import pytest
import torch

from vitprune.core.compute import stopwatch
from vitprune.core.compute.stopwatch import Latency, time_in_turn
from vitprune.errors import MeasurementError

CPU, OTHER = torch.device("cpu"), torch.device("meta")


def test_the_figures_are_percentiles_over_the_rounds():
    seconds = np.array([[0.010, 0.002], [0.020, 0.010], [0.030, 0.005], [0.040, 0.020], [0.050, 0.010]])
    first, second = (Latency.of(seconds, index) for index in (0, 1))
    assert (first.speedup, first.speedup_p10, first.speedup_p90) == (1.0, 1.0, 1.0)
    assert (first.median_ms, first.p90_ms, first.p99_ms) == pytest.approx((30.0, 46.0, 49.6))
    # Ratios round by round: 5, 2, 6, 2, 5. That of the medians would be 3.
    assert (second.speedup, second.speedup_p10, second.speedup_p90) == pytest.approx((5.0, 2.0, 5.6))
    assert second.as_metrics(batch_size=8)["images_per_second"] == pytest.approx(800.0)


def events_of(monkeypatch, devices, names="AB"):
    """What happens in one round, and the device that is waited for."""
    events = []
    monkeypatch.setattr(stopwatch, "synchronise", lambda device: events.append(device.type))
    work = [lambda name=name: events.append(name) for name in names]
    time_in_turn(work, devices, warmup=1, rounds=5)
    rounds = events[-5 * 3 * len(names) :]
    assert rounds[: 3 * len(names)] * 5 == rounds
    return rounds[: 3 * len(names)]


def test_each_piece_of_work_waits_for_its_own_device(monkeypatch):
    assert events_of(monkeypatch, [CPU, OTHER]) == ["cpu", "A", "cpu", "meta", "B", "meta"]
    assert events_of(monkeypatch, OTHER) == ["meta", "A", "meta", "meta", "B", "meta"]


@pytest.mark.parametrize(("warmup", "rounds"), [(0, 10), (1, 4)])
def test_too_few_repetitions_are_refused(warmup, rounds):
    with pytest.raises(MeasurementError, match=f"{rounds} rounds after {warmup} warm-up passes"):
        time_in_turn([lambda: None], CPU, warmup=warmup, rounds=rounds)
