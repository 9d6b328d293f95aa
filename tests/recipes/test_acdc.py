from contextlib import contextmanager
from functools import partial

import pytest
import torch

from tests.recipes.conftest import CPU, OPTIONS
from vitprune.recipes.acdc import find_circuit
from vitprune.recipes.prune import CircuitModel, prune
from vitprune.recipes.stability import find_stability


@pytest.fixture(scope="module")
def found(packed, baseline):
    return find_circuit(packed, baseline, OPTIONS.acdc, CPU)


def test_the_metrics_count_what_the_circuit_keeps(found):
    circuit, counts = found.circuit, found.metrics
    assert counts["edges"]["total"] == len(circuit.graph.edges)
    assert counts["edges"]["kept"] == len(circuit.kept)
    assert counts["heads"]["kept"] == sum(name.startswith("a") for name in circuit.live_nodes)
    assert counts["mlp_groups"]["kept"] == sum(name.startswith("m") for name in circuit.live_nodes)
    assert counts["search_kl"] == circuit.kl
    assert 0 < found.timing["tests"] <= len(circuit.trace)


def test_the_model_of_the_circuit_computes_what_the_baseline_does(found, baseline, packed):
    images = baseline.preprocessing(torch.from_numpy(packed.val.images))
    torch.testing.assert_close(found.saved.model(images), baseline.model(images))


def test_curves_are_computed_once_and_only_if_asked_for(found, packed, baseline):
    assert set(found.curves) == {"found", "eap", "eap_ig", "eap_ig_activations", "relp", "activation", "random"}
    assert set(found.metrics["faithfulness"]["common_scale"]) == set(found.curves)
    without = find_circuit(packed, baseline, OPTIONS.acdc.model_copy(update={"curves": False}), CPU)
    assert without.curves == {}
    assert without.circuit.kept == found.circuit.kept
    assert without.point == found.point
    assert "common_scale" not in without.metrics["faithfulness"]


def test_what_it_finds_is_what_pruning_by_a_circuit_takes(found, packed, baseline):
    pruned = prune(packed, baseline, CircuitModel(found.circuit, found.saved), OPTIONS.prune, 1, CPU)
    assert sum(pruned.saved.model.config.layer_heads) == pruned.metrics["heads"]["kept"]
    assert pruned.metrics["heads"]["kept"] == found.metrics["heads"]["kept"]


def test_only_one_piece_of_work_is_shown_at_a_time(packed, baseline):
    shown, callbacks = [], []

    @contextmanager
    def watching(name):
        shown.append(f"{name} begins")
        yield lambda *_: callbacks.append(name)
        shown.append(f"{name} ends")

    watches = {f"watch_{name}": partial(watching, name) for name in ("search", "samples")}
    find_circuit(packed, baseline, OPTIONS.acdc, CPU, **watches)
    assert shown == ["search begins", "search ends", "samples begins", "samples ends"]
    assert callbacks.count("samples") == 3
    assert set(callbacks) == {"search", "samples"}


def test_bootstrap_samples_say_which_edges_are_undecided(found, packed, baseline):
    stable = found.stable.metrics
    assert stable["samples"] == 3
    assert sum(stable["edges"].values()) == len(found.circuit.graph.edges)
    assert sum(stable["edges_of_the_circuit"].values()) == len(found.circuit.kept)
    assert stable["jaccard"]["low"] <= stable["jaccard"]["mean"] <= stable["jaccard"]["high"] < 1
    assert found.metrics["stability"] == stable
    assert torch.equal(found.circuit.frequency, found.stable.stability.frequency)
    without = find_circuit(packed, baseline, OPTIONS.acdc.model_copy(update={"bootstrap_samples": None}), CPU)
    assert (without.stable, without.metrics["stability"], without.circuit.frequency) == (None, None, None)
    assert without.circuit.kept == found.circuit.kept
    later = find_stability(packed, found.saved, without.circuit, OPTIONS.acdc, 3)
    assert later.metrics == stable
