from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.circuit.oracle import brute_kl, brute_logits, random_images, random_model
from vitprune.circuit import discover
from vitprune.circuit.faithfulness import SHARES, FaithfulnessMeter
from vitprune.circuit.ranking import top_edges


@pytest.fixture
def given():
    model = random_model(8, num_layers=3)
    images = random_images(model, count=20)
    circuit = discover(model, images, "eap-ig", num_edges=30)
    labels = (model(images).argmax(-1) + (torch.arange(20) % 4 == 0)) % 3
    return model, images, labels, circuit, FaithfulnessMeter(model, images, labels, circuit)


def test_the_full_circuit_recovers_everything_and_the_empty_one_nothing(given):
    model, images, labels, circuit, meter = given
    curve = meter.curve(circuit.scores, (0.0, 0.3, 1.0))
    assert (curve[0].recovered, curve[0].f, curve[0].edges) == (0.0, 0.0, 0)
    assert (curve[-1].recovered, curve[-1].f) == (pytest.approx(1.0, abs=1e-9), pytest.approx(1.0, abs=1e-9))
    assert curve[-1].accuracy == pytest.approx(float((model(images).argmax(-1) == labels).double().mean()))
    assert curve[-1].edges == len(circuit.graph.edges)
    everything = SimpleNamespace(graph=circuit.graph, keep_mask=circuit.graph.all_edges)
    assert meter.completeness(everything).recovered == 0.0


def test_what_is_recovered_is_so_by_brute_force(given):
    model, images, labels, circuit, meter = given
    graph, ablation, full = circuit.graph, circuit.ablation, model(images).detach()
    others = full.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    rows = torch.arange(len(images))

    def difference(kept):
        logits = brute_logits(model, images, graph, set(kept), ablation)
        return float((logits[rows, labels] - logits[rows, others]).mean())

    found = meter.measure(circuit.keep_mask)
    nothing, whole = difference([]), difference(graph.edges)
    assert found.f == pytest.approx((difference(circuit.kept) - nothing) / (whole - nothing))
    kls = [brute_kl(model, images, graph, set(kept), ablation, full) for kept in (circuit.kept, [])]
    assert found.kl == pytest.approx(kls[0])
    assert found.recovered == pytest.approx(1 - kls[0] / kls[1])


def test_the_common_scale_has_the_areas_over_the_share_of_edges(given):
    *_, circuit, meter = given
    graph, scores = circuit.graph, circuit.scores
    areas = {"cpr": 0.0, "cmd": 0.0}
    for name, values, height in (("cpr", scores, lambda f: f), ("cmd", scores.abs(), lambda f: abs(1 - f))):
        order = sorted(graph.edges, key=lambda edge: -float(values[graph.mask_of([edge])]))
        heights = []
        for share in SHARES:
            mask = graph.mask_of(order[: int(share * len(order))])
            heights.append(height(meter.measure(graph.close(mask)).f))
        for left, right, low, high in zip(SHARES, SHARES[1:], heights, heights[1:], strict=False):
            areas[name] += (right - left) * (low + high) / 2
    found = meter.common_scale(scores)
    assert vars(found) == pytest.approx(areas)
    assert vars(meter.common_scale(-scores))["cpr"] != pytest.approx(areas["cpr"])


def test_a_perfect_ranking_has_the_best_areas(given):
    *_, meter = given
    perfect = replace(meter.measure(meter.example.graph.all_edges), f=1.0)
    meter.measure = lambda _: perfect
    found = meter.common_scale(meter.example.scores)
    assert vars(found) == pytest.approx({"cpr": 1 - SHARES[0], "cmd": 0.0})


def test_edges_without_a_score_come_last(given):
    circuit = given[3]
    graph = circuit.graph
    scores = torch.full(graph.all_edges.shape, torch.nan, dtype=torch.float64)
    scores[graph.mask_of([graph.edges[7]])] = -3.0
    assert graph.named(top_edges(graph, scores, 1)) == graph.named(top_edges(graph, scores, 1, is_signed=True))
    assert graph.named(top_edges(graph, scores, 1)) == (graph.edges[7],)
