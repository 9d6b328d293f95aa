"""Models whose circuit is known by construction."""

import pytest
import torch

from benchmarks.planted import FIRST_PATH, PLANTS, SECOND_PATH
from vitprune.circuit import acdc, eap, eap_ig, hybrid

TAUS = pytest.mark.parametrize("tau", [1e-4, 1e-3, 1e-2])


@TAUS
@pytest.mark.parametrize("name", ["copy_head", "and_paths", "key_only_head"])
def test_acdc_finds_exactly_the_planted_circuit(name, tau):
    planted = PLANTS[name]()
    assert torch.equal(planted.model(planted.images).argmax(dim=1), planted.labels)
    for method in (acdc, hybrid):
        circuit = method(planted.model, planted.images, tau=tau, graph=planted.graph, ablation=planted.ablation)
        assert set(circuit.kept) == planted.true_edges
    assert circuit.kl < 1e-4


@TAUS
def test_acdc_keeps_one_of_two_paths_that_do_the_same(tau):
    planted = PLANTS["or_paths"]()
    circuit = acdc(planted.model, planted.images, tau=tau, graph=planted.graph, ablation=planted.ablation)
    assert set(circuit.kept) in (planted.true_edges - set(FIRST_PATH), planted.true_edges - set(SECOND_PATH))
    assert circuit.kl < 1e-4


@pytest.mark.parametrize("name", PLANTS)
def test_integrated_gradients_rank_the_planted_edges_first(name):
    planted = PLANTS[name]()
    graph, ablation, count = planted.graph, planted.ablation, len(planted.true_edges)
    circuit = eap_ig(planted.model, planted.images, graph=graph, ablation=ablation, num_edges=count)
    assert set(circuit.kept) == planted.true_edges


def test_plain_attribution_misses_saturated_neurons():
    planted = PLANTS["and_paths"]()
    graph, ablation, count = planted.graph, planted.ablation, len(planted.true_edges)
    circuit = eap(planted.model, planted.images, graph=graph, ablation=ablation, num_edges=count)
    assert set(circuit.kept) != planted.true_edges
