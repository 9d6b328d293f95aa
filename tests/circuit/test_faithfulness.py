from types import SimpleNamespace

import pytest

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import discover
from vitprune.circuit.faithfulness import FaithfulnessMeter, area_under


def test_the_full_circuit_recovers_everything_and_the_empty_one_nothing():
    model = random_model(8, num_layers=3)
    images = random_images(model, count=20)
    labels = model(images).argmax(-1)
    circuit = discover(model, images, "eap-ig", num_edges=30)
    meter = FaithfulnessMeter(model, images, labels, circuit)
    curve = meter.curve(circuit.scores, (0.0, 0.3, 1.0))
    assert (curve[0].recovered, curve[0].edges) == (0.0, 0)
    assert curve[-1].recovered == pytest.approx(1.0, abs=1e-9)
    assert curve[-1].accuracy == 1.0
    assert curve[-1].edges == len(circuit.graph.edges)
    everything = SimpleNamespace(graph=circuit.graph, keep_mask=circuit.graph.all_edges)
    assert meter.completeness(everything).recovered == 0.0
    assert 0 < area_under(curve) < 1
