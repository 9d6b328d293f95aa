"""Speeds that come from the shapes of models alone, for tests in which no clock may decide."""

import pytest

from vitprune.core.model import ViT
from vitprune.pruning import measurements
from vitprune.pruning.latency import CostCurve, LatencyTable

CURVE = CostCurve(widths=(1, 64), ms=(1.0, 64.0))
TABLE = LatencyTable(measured_on={}, rest_ms=1, attention=CURVE, mlp=CURVE, short_attention=CURVE, short_mlp=CURVE)


def take_speeds_from_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured for pruning follows from the numbers of heads and neurons."""
    monkeypatch.setattr(measurements, "measured_speedup", lambda baseline, small, _: speedup(baseline, small))
    monkeypatch.setattr(measurements, "measure_table", lambda *_: TABLE)


def speedup(baseline: ViT, small: ViT) -> float:
    """How many times as fast ``small`` counts as."""
    return _width(baseline) / _width(small)


def _width(model: ViT) -> int:
    return 1 + 4 * sum(model.config.layer_heads) + sum(model.config.layer_neurons)
