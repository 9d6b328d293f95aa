import statistics
from itertools import compress, product

import pytest

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation
from vitprune.pruning import cut
from vitprune.pruning.fold import Fold
from vitprune.pruning.latency import CostCurve, LatencyTable
from vitprune.pruning.partial_model import PartialModel
from vitprune.pruning.search import SpeedSearch, _price

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
    return with_images(random_model(5, num_layers=3, scale=12.0))


def with_images(model):
    images = random_images(model, count=8)
    return model, images, Fold.mean(Ablation.mean(model, images), model)


def new_search(searched, **options):
    model, images, fold = searched
    return SpeedSearch(model, images, fold, TABLE, GROUP, **options)


def gone_and_left(searched, search):
    """What a search left, replayed; the units that are gone and those that are there."""
    model, images, fold = searched
    partial = PartialModel(model, images, fold)
    units = partial.units(GROUP)
    sides = search.survivors.heads, search.survivors.neurons
    gone = [unit for unit in units if unit.members[0] not in sides[unit.sublayer % 2][unit.sublayer // 2]]
    for unit in gone:
        partial.remove(unit)
    return partial, gone, [unit for unit in units if unit not in gone]


@pytest.mark.parametrize("speedup", [1.2, 2.0, 4.0])
def test_it_is_fast_enough_and_nothing_that_helps_would_fit(searched, speedup):
    search = new_search(searched)
    limit = search.whole_milliseconds / speedup
    assert search.reach_milliseconds(limit)
    partial, gone, _ = gone_and_left(searched, search)
    assert partial.kl == pytest.approx(search.kl, abs=1e-12)
    assert TABLE.milliseconds(partial.config) == search.milliseconds <= limit
    fitting = [unit for unit in gone if TABLE.milliseconds(partial.config_with(unit)) <= limit]
    assert all(partial.kl_with(unit) >= partial.kl for unit in fitting)


def test_the_first_to_go_costs_the_least_kl_per_millisecond(searched):
    model, images, fold = searched
    whole = PartialModel(model, images, fold)
    prices = {}
    for unit in whole.units(GROUP):
        is_short = unit.sublayer // 2 == 2
        curve = TABLE.curve("mlp" if unit.sublayer % 2 else "attention", is_short=is_short)
        saved = curve.saving(12 if unit.sublayer % 2 else 2, len(unit.members))
        if saved > 0:
            prices[unit.name] = whole.kl_without(unit) / saved
    for place in range(6):
        units = [unit for unit in whole.units(GROUP) if unit.sublayer == place]
        rest = PartialModel(model, images, fold)
        for unit in units:
            rest.remove(unit)
        saved = TABLE.milliseconds(whole.config) - TABLE.milliseconds(rest.config)
        prices[f"{'am'[place % 2]}{place // 2}"] = rest.kl / saved
    search = new_search(searched)
    search.reach_milliseconds(search.whole_milliseconds * 0.999)
    assert search.trace[0].unit == min(prices, key=prices.__getitem__)


def test_kl_stays_within_its_target_and_nothing_more_would_fit(searched):
    search = new_search(searched)
    search.reach_kl(LIMIT)
    assert 0 < search.kl <= LIMIT
    assert search.milliseconds < search.whole_milliseconds
    partial, _, left = gone_and_left(searched, search)
    assert partial.kl == pytest.approx(search.kl, abs=1e-12)
    # On the flat part of the table nothing is gained by a step.
    assert all(partial.kl_without(unit) > LIMIT for unit in left if not unit.name.startswith("m2"))


def brute_force(searched):
    """Predicted milliseconds and KL of every choice of heads and groups of neurons."""
    partial = PartialModel(*searched)
    units = partial.units(GROUP)
    choices = []
    for mask in product([False, True], repeat=len(units)):
        kept = [[] for _ in partial.kept]
        for unit in compress(units, mask):
            kept[unit.sublayer] += unit.members
        partial.keep(kept)
        choices.append((TABLE.milliseconds(partial.config), partial.kl))
    return choices


@pytest.mark.slow
def test_it_mostly_comes_within_5_percent_of_the_best_of_all_choices():
    kls, times = [], []
    for seed in range(6):
        searched = with_images(random_model(seed, num_layers=2, d_mlp=9, scale=12.0))
        choices = brute_force(searched)
        for speedup in (1.3, 1.5, 1.8, 2.5):
            search = new_search(searched)
            limit = search.whole_milliseconds / speedup
            assert search.reach_milliseconds(limit)
            search.improve_within(limit)
            kls.append(search.kl / min(kl for milliseconds, kl in choices if milliseconds <= limit))
        for limit in (3e-4, 1e-3, 3e-3):
            search = new_search(searched)
            search.reach_kl(limit)
            times.append(search.milliseconds / min(milliseconds for milliseconds, kl in choices if kl <= limit))
    assert min(*kls, *times) > 1 - 1e-6
    for shares in (kls, times):
        assert statistics.median(shares) < 1.001
        assert statistics.geometric_mean(shares) < 1.04
        assert sum(share < 1.05 for share in shares) >= 0.8 * len(shares)


def test_the_trace_names_what_was_removed_and_restored(searched):
    reports = []
    search = new_search(searched, on_progress=reports.append)
    search.reach_milliseconds(search.whole_milliseconds / 3)
    _, gone, left = gone_and_left(searched, search)
    assert search.trace[-1].kl == pytest.approx(search.kl, abs=1e-12)
    assert search.trace[-1].milliseconds == search.milliseconds
    there = {unit.name: True for unit in sorted([*gone, *left], key=lambda unit: unit.name)}
    for move in search.trace:
        # A unit of its own, a whole sublayer, or the first units of one: m0.g1, m0 or m0[:2].
        sublayer, _, count = move.unit.partition("[:")
        names = [name for name in there if name == move.unit or name.startswith(f"{sublayer}.")]
        there |= dict.fromkeys(names[: int(count.rstrip("]")) if count else None], move.action == "restored")
    assert {name for name, is_there in there.items() if is_there} == {unit.name for unit in left}
    assert [report.tried for report in reports] == list(range(1, len(reports) + 1))


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
        ways.append(search.trace)
    assert ways[0] == ways[1]


def test_of_removals_that_lower_kl_the_one_that_saves_most_comes_first():
    prices = [_price(-1e-4, milliseconds, "removed") for milliseconds in (4.0, 2.0, 1.0)]
    assert prices == sorted(prices)
    assert max(prices) < _price(0.0, 1.0, "removed") < _price(1e-6, 4.0, "removed") < _price(1e-6, 2.0, "removed")
