"""Models whose circuit is known by construction."""

import pytest
import torch

from benchmarks.planted import FIRST_PATH, PLANTS, SECOND_PATH, Planted, adder, garden, plant
from vitprune.circuit import Circuit, discover

TAUS = pytest.mark.parametrize("tau", [1e-4, 1e-3, 1e-2])


def found(planted: Planted, method: str, **options: float) -> Circuit:
    return discover(planted.model, planted.images, method, graph=planted.graph, ablation=planted.ablation, **options)


@TAUS
@pytest.mark.parametrize("name", ["copy_head", "and_paths", "key_only_head"])
def test_acdc_finds_exactly_the_planted_circuit(name, tau):
    planted = PLANTS[name]()
    assert torch.equal(planted.model(planted.images).argmax(dim=1), planted.labels)
    for method in ("acdc", "hybrid"):
        circuit = found(planted, method, tau=tau)
        assert set(circuit.kept) == planted.true_edges
    assert circuit.kl < 1e-4


@TAUS
def test_acdc_keeps_one_of_two_paths_that_do_the_same(tau):
    planted = PLANTS["or_paths"]()
    circuit = found(planted, "acdc", tau=tau)
    assert set(circuit.kept) in (planted.true_edges - set(FIRST_PATH), planted.true_edges - set(SECOND_PATH))
    assert circuit.kl < 1e-4


# The ablated model is no minimum of the metric: there, every small change of the stream has a small effect.
@pytest.mark.parametrize("tau", [1e-3, 1e-2])
@pytest.mark.parametrize("name", PLANTS)
def test_both_directions_find_exactly_the_planted_circuit(name, tau):
    planted = PLANTS[name]()
    circuit = found(planted, "acdc", tau=tau, direction="both")
    assert set(circuit.kept) == planted.true_edges


def test_edges_are_what_they_were_planted_as():
    either = found(PLANTS["or_paths"](), "acdc", tau=1e-3, direction="both").gates
    assert either == dict.fromkeys((*FIRST_PATH, *SECOND_PATH), "OR") | {("m1", "logits"): "ADDER"}
    added = plant(adder)
    assert found(added, "acdc", tau=1e-3, direction="both").gates == dict.fromkeys(added.true_edges, "ADDER")
    # Where to look is of no use without what to see there.
    assert set(found(PLANTS["key_only_head"](), "acdc", tau=1e-3, direction="both").gates.values()) == {"AND", "ADDER"}


@pytest.mark.slow
def test_both_directions_find_every_circuit_in_the_garden():
    for planted in garden(seed=7):
        assert torch.equal(planted.model(planted.images).argmax(dim=1), planted.labels), planted.name
        circuit = found(planted, "acdc", tau=1e-3, direction="both")
        assert set(circuit.kept) == planted.true_edges, planted.name


@pytest.mark.parametrize("name", PLANTS)
def test_integrated_gradients_rank_the_planted_edges_first(name):
    planted = PLANTS[name]()
    circuit = found(planted, "eap-ig", num_edges=len(planted.true_edges))
    assert set(circuit.kept) == planted.true_edges


def test_plain_attribution_misses_saturated_neurons():
    planted = PLANTS["and_paths"]()
    circuit = found(planted, "eap", num_edges=len(planted.true_edges))
    assert set(circuit.kept) != planted.true_edges
