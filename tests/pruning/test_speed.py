import pytest

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation
from vitprune.pruning import cut
from vitprune.pruning.latency import CostCurve, LatencyTable
from vitprune.pruning.partial import PartialModel
from vitprune.pruning.speed import SpeedSearch

GROUP, LIMIT = 3, 3e-4
TABLE = LatencyTable(
    measured_on={},
    rest_ms=0.5,
    attention=CostCurve(widths=(1, 2), ms=(2.0, 3.0)),
    mlp=CostCurve(widths=(3, 6, 9, 12), ms=(1.5, 2.0, 2.5, 3.0)),
    short_attention=CostCurve(widths=(1, 2), ms=(1.0, 1.5)),
    short_mlp=CostCurve(widths=(3, 6, 9, 12), ms=(0.5, 0.5, 0.6, 0.6)),
)


@pytest.fixture
def searched():
    model = random_model(5, num_layers=3, scale=12.0)
    images = random_images(model, count=8)
    ablation = Ablation.mean(model, images)
    return model, images, ablation


def new_search(searched, **options):
    model, images, ablation = searched
    return SpeedSearch(model, images, ablation, TABLE, GROUP, **options)


@pytest.mark.parametrize("speedup", [1.2, 2.0, 4.0])
def test_it_stops_as_soon_as_the_model_should_be_fast_enough(searched, speedup):
    search = new_search(searched)
    limit = search.whole_milliseconds / speedup
    assert search.reach_milliseconds(limit)
    before_last = cut(searched[0], search.survivors_after[-2], searched[2])
    assert search.milliseconds <= limit < TABLE.milliseconds(before_last.config)


def test_the_first_to_go_costs_the_least_kl_per_millisecond(searched):
    model, images, ablation = searched
    whole = PartialModel(model, images, ablation)
    prices = {}
    for unit in whole.units(GROUP):
        is_whole = "." not in unit.name
        is_short = unit.sublayer // 2 == 2
        curve = TABLE.curve("mlp" if unit.sublayer % 2 else "attention", is_short=is_short)
        if is_whole:
            saved = TABLE.milliseconds(whole.config) - TABLE.milliseconds(whole.config_without(unit))
        else:
            saved = curve.saving(12 if unit.sublayer % 2 else 2, len(unit.members))
        change = whole.kl_without(unit)
        if saved > 0:
            prices[unit.name] = change / saved
    search = new_search(searched)
    search.reach_milliseconds(search.whole_milliseconds * 0.999)
    assert search.trace[0].sender == min(prices, key=prices.__getitem__)


def test_kl_stays_within_its_target_and_nothing_more_would_fit(searched):
    model, images, ablation = searched
    search = new_search(searched)
    search.reach_kl(LIMIT)
    assert 0 < search.kl <= LIMIT
    left = PartialModel(model, images, ablation)
    units = {unit.name: unit for unit in left.units(GROUP)}
    for decision in search.trace:
        left.remove(units[decision.sender] if "." in decision.sender else left.whole(units[decision.sender].sublayer))
    assert left.kl == pytest.approx(search.kl, abs=1e-12)
    # On the flat part of the table nothing is gained by a step.
    assert all(left.kl_without(unit) > LIMIT for unit in left.units(GROUP) if not unit.name.startswith("m2"))


def test_the_trace_names_what_went_and_what_it_cost(searched):
    reports = []
    search = new_search(searched, on_progress=reports.append)
    search.reach_milliseconds(search.whole_milliseconds / 3)
    assert [decision.action for decision in search.trace] == ["removed"] * len(search.trace)
    assert search.trace[0].before == 0.0
    for decision, following in zip(search.trace, search.trace[1:], strict=False):
        assert decision.after == following.before
    assert search.trace[-1].after == search.kl == reports[-1].kl
    assert reports[-1].removed == len(search.trace)
    assert reports[-1].milliseconds == search.milliseconds


def test_in_the_end_nothing_is_left(searched):
    search = new_search(searched)
    assert not search.reach_milliseconds(0.1)
    assert search.milliseconds == TABLE.rest_ms
    small = cut(searched[0], search.survivors, searched[2])
    assert sum(small.config.layer_heads) == sum(small.config.layer_neurons) == 0


def test_the_same_search_takes_the_same_way(searched):
    ways = []
    for _ in range(2):
        search = new_search(searched)
        search.reach_milliseconds(search.whole_milliseconds / 5)
        ways.append([decision.sender for decision in search.trace])
    assert ways[0] == ways[1]
