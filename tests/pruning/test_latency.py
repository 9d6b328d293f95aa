from dataclasses import replace

import pytest
import torch

from tests.circuit.oracle import random_model
from vitprune.core.compute.stopwatch import TimingProtocol
from vitprune.errors import MeasurementError
from vitprune.pruning.latency import CostCurve, LatencyTable, measure_table

PROTOCOL = TimingProtocol(device=torch.device("cpu"), batch_size=2, warmup=1, rounds=5)


@pytest.fixture(scope="module")
def config():
    return random_model(num_layers=2, num_heads=4, d_mlp=24).config


def test_a_curve_is_interpolated_and_nothing_costs_nothing():
    curve = CostCurve(widths=(1, 2, 4), ms=(1.0, 2.0, 3.0))
    assert [curve.at(width) for width in (0, 1, 3, 4)] == [0.0, 1.0, 2.5, 3.0]


@pytest.mark.parametrize(
    ("width", "step", "saving"),
    [
        (4, 1, 0.5),
        (2, 1, 1.0),
        (1, 1, 1.0),  # the whole sublayer, its fixed cost included
        (4, 4, 3.0),
    ],
)
def test_a_step_saves_its_share_of_the_way_down(width, step, saving):
    assert CostCurve(widths=(1, 2, 3, 4), ms=(1.0, 2.0, 2.5, 3.0)).saving(width, step) == pytest.approx(saving)


def test_on_a_stair_a_step_saves_its_share_of_the_stair():
    stairs = CostCurve(widths=(1, 2, 3, 4), ms=(1.0, 1.0, 2.0, 2.0))
    assert stairs.saving(4, 1) == pytest.approx(0.5)
    assert stairs.saving(2, 1) == 0.0


def test_measured_costs_never_fall_with_the_width(config):
    table = measure_table(config, 5, PROTOCOL)
    for curve in (table.attention, table.mlp, table.short_attention, table.short_mlp):
        assert list(curve.ms) == sorted(curve.ms)
        assert curve.ms[0] > 0
    assert table.attention.widths == (1, 2, 3, 4)
    assert table.mlp.widths == (5, 10, 15, 20, 24)


def test_a_model_costs_the_sum_of_its_sublayers(config):
    curve = CostCurve(widths=(1, 24), ms=(1.0, 24.0))
    short = CostCurve(widths=(1, 24), ms=(0.5, 12.0))
    table = LatencyTable(
        measured_on={}, rest_ms=0.25, attention=curve, mlp=curve, short_attention=short, short_mlp=short
    )
    assert table.milliseconds(config) == pytest.approx(0.25 + 4 + 24 + 2 + 12)
    # Without the last attention, only the class token is computed from the first on.
    pruned = replace(config, heads_per_layer=(3, 0), neurons_per_layer=(0, 10))
    assert table.milliseconds(pruned) == pytest.approx(0.25 + 1.5 + 5)


@pytest.mark.parametrize("changes", [{"rounds": 4}, {"warmup": 0}])
def test_too_few_measurements_are_refused(config, changes):
    with pytest.raises(MeasurementError, match="would not give a figure to trust"):
        measure_table(config, 5, replace(PROTOCOL, **changes))
