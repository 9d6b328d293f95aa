"""Scores that are exchanged with the benchmark MIB."""

import json

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Graph, discover
from vitprune.circuit.importance import read_importance, write_importance
from vitprune.circuit.ranking import ranking_of
from vitprune.errors import CircuitError


@pytest.fixture
def given(tmp_path):
    model = random_model(61)
    circuit = discover(model, random_images(model), "eap-ig", num_edges=20)
    write_importance(tmp_path / "scores.json", circuit, model.config)
    return circuit, model, tmp_path / "scores.json"


def test_scores_come_back_as_they_were(given):
    circuit, _, path = given
    assert torch.equal(read_importance(path, circuit.graph), circuit.scores)


def test_the_file_names_everything_as_mib_does(given):
    circuit, _, path = given
    content = json.loads(path.read_text())
    assert content["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    assert list(content["nodes"])[:4] == ["input", "a0.h0", "a0.h1", "m0"]
    assert len(content["edges"]) == len(circuit.graph.edges)
    assert {"input->a0.h0<q>", "a0.h1->a1.h0<k>", "m0->a1.h1<v>", "a0.h0->m1", "m1->logits"} <= set(content["edges"])
    kept = {(sender, receiver) for sender, receiver in circuit.kept}
    for name, entry in content["edges"].items():
        sender, receiver = name.replace("input", "embed").replace("<", ".").replace(">", "").split("-")
        assert entry["in_graph"] == ((sender, receiver) in kept)
    live = {"input", "logits", *circuit.live_nodes}
    assert {name for name, entry in content["nodes"].items() if entry["in_graph"]} == live


def test_a_search_ranks_its_own_edges_first(tmp_path):
    model = random_model(62)
    circuit = discover(model, random_images(model), tau=0.02)
    write_importance(tmp_path / "scores.json", circuit, model.config)
    scores = read_importance(tmp_path / "scores.json", circuit.graph)
    assert torch.equal(scores, ranking_of(circuit))
    kept, others = scores[circuit.keep_mask], scores[circuit.graph.all_edges & ~circuit.keep_mask]
    assert kept.min() >= 1 >= others.max()
    assert others.min() < 0  # to remove some edges helped


@pytest.mark.fault("a file of scores for another model, or none at all", "the edge or the file is named")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["edges"].pop("m1->logits"), "has no score for m1->logits"),
        (lambda content: content["edges"].update({"m7->logits": {"score": 1}}), "m7->logits is not an edge"),
        (lambda content: content["edges"].update({"m1->logits": {"score": "high"}}), "m1->logits must be a finite"),
        (lambda content: content["edges"].update({"m1->logits": {"score": float("nan")}}), "finite number, got nan"),
        (lambda content: content["edges"].update({"m1->logits": 3}), "finite number, got None"),
        (lambda content: content.pop("edges"), "is not a file of scores"),
        (lambda content: content.update({"edges": [1, 2]}), "is not a file of scores"),
    ],
)
def test_scores_of_another_model_are_refused(given, change, message):
    circuit, _, path = given
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CircuitError, match=message):
        read_importance(path, circuit.graph)


def test_what_is_no_json_is_refused(tmp_path):
    graph = Graph((1,), (4,))
    for content in (b"", b"[]", b"{", b"\xff\xfe", b"3"):
        (tmp_path / "scores.json").write_bytes(content)
        with pytest.raises(CircuitError, match="is not a file of scores"):
            read_importance(tmp_path / "scores.json", graph)
    with pytest.raises(CircuitError, match="cannot be read"):
        read_importance(tmp_path, graph)
