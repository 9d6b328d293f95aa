import json
from dataclasses import replace

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Circuit, discover
from vitprune.storage import MARK


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_a_circuit_survives_saving_and_loading(tmp_path, pooling):
    model = random_model(9, pooling=pooling)
    images = random_images(model)
    circuit = discover(model, images, tau=0.01, granularity="node-edge")
    circuit.save(tmp_path / "circuit")
    loaded = Circuit.load(tmp_path / "circuit")
    assert loaded.kept == circuit.kept
    assert loaded.trace == circuit.trace
    assert (loaded.method, loaded.metric, loaded.tau, loaded.kl) == ("acdc-node-edge", "kl", 0.01, circuit.kl)
    torch.testing.assert_close(loaded.scores, circuit.scores, equal_nan=True)
    torch.testing.assert_close(loaded.logits(model, images), circuit.logits(model, images))


def test_how_often_samples_keep_an_edge_and_what_it_is_are_in_the_file(tmp_path):
    model = random_model(9)
    circuit = discover(model, random_images(model), tau=0.01)
    assert circuit.frequency is None
    shares = torch.rand(circuit.keep_mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gates = {circuit.kept[0]: "OR", circuit.kept[-1]: "ADDER"}
    replace(circuit, frequency=shares, gates=gates).save(tmp_path / "circuit")
    assert Circuit.load(tmp_path / "circuit").gates == gates
    loaded = Circuit.load(tmp_path / "circuit").frequency
    edges = circuit.graph.all_edges
    torch.testing.assert_close(loaded[edges], shares[edges], rtol=0, atol=0)
    assert loaded[~edges].isnan().all()
    sender, receiver, _, share, gate = json.loads((tmp_path / "circuit" / "circuit.json").read_text())["kept"][0]
    assert gate == "OR"
    assert share == shares[circuit.graph.receiver_index[receiver], circuit.graph.sender_index[sender]]


def test_a_circuit_from_before_there_was_a_choice_reads_the_class_token(tmp_path):
    model = random_model(9)
    circuit = discover(model, random_images(model), tau=0.01)
    circuit.save(tmp_path / "circuit")
    path = tmp_path / "circuit" / "circuit.json"
    content = json.loads(path.read_text())
    del content["graph"]["pooling"]
    path.write_text(json.dumps(content))
    (tmp_path / "circuit" / MARK).unlink()
    assert Circuit.load(tmp_path / "circuit").graph == circuit.graph
