"""Circuits for some classes or some images, and how circuits are compared."""

import csv

import pytest
import torch

from tests.circuit.oracle import brute_acdc, random_images, random_model
from tests.recipes.conftest import CLASSES, CPU, OPTIONS
from tests.training.conftest import PREPROCESSING, random_split
from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.comparison import by_layer, compare
from vitprune.circuit.sample import question_sample, validation_sample
from vitprune.core.packed import PackedData
from vitprune.errors import CircuitError
from vitprune.report.comparison import comparison_table, write_comparison


@pytest.fixture(scope="module")
def packed():
    splits = {"train": random_split(48), "val": random_split(16, 1), "test": random_split(16, 2)}
    return PackedData(**splits, class_names=CLASSES, mean=(0.5,), std=(0.3,))


def asking(**changes):
    return OPTIONS.acdc.model_copy(update=changes)


def test_a_question_about_a_class_shows_images_of_that_class(packed):
    sample = question_sample(packed, PREPROCESSING, asking(classes=["b"], num_images=5), CPU)
    assert sample.labels.tolist() == [1] * 5
    assert sample.rivals is None
    held_out = validation_sample(packed, PREPROCESSING, asking(classes=["b"]), CPU, 100)
    assert set(held_out.labels.tolist()) == {1}
    assert len(held_out.labels) == (packed.val.labels == 1).sum()


def test_two_classes_are_each_others_rivals(packed):
    for count in (10, 1000):
        sample = question_sample(packed, PREPROCESSING, asking(classes=["d", "b"], num_images=count), CPU)
        assert set(sample.labels.tolist()) == {1, 3}
        assert (sample.labels + sample.rivals == 4).all()
        assert len(sample.labels) == min(count, int(((packed.train.labels == 1) | (packed.train.labels == 3)).sum()))


def test_images_that_are_named_are_shown_whatever_their_number(packed):
    chosen = torch.tensor([3, 7, 20]).numpy()
    sample = question_sample(packed, PREPROCESSING, asking(num_images=1), CPU, chosen)
    assert sample.labels.tolist() == packed.train.labels[chosen].tolist()


def test_a_class_that_the_data_do_not_have_is_named(packed):
    with pytest.raises(CircuitError, match=r"acdc.classes: 'e' is not a class of the data; those are a, b, c, d"):
        question_sample(packed, PREPROCESSING, asking(classes=["a", "e"]), CPU)


def test_the_logit_difference_is_that_to_the_rival():
    model = random_model(71)
    images = random_images(model, count=8)
    labels = torch.arange(8) % 2
    rivals = 1 - labels
    graph, ablation = Graph.of(model), Ablation.mean(model, images)

    def difference(logits, _):
        rows = torch.arange(8)
        return float((logits[rows, rivals] - logits[rows, labels]).mean())

    options = {"graph": graph, "ablation": ablation, "tau": 0.05, "metric": "logit-difference", "labels": labels}
    circuit = discover(model, images, rivals=rivals, **options)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, 0.05, "edge", difference)
    assert set(circuit.kept) != set(discover(model, images, **options).kept)
    others = {name: value for name, value in options.items() if name != "tau"} | {"num_edges": 9}
    for method in ("eap", "eap-ig", "relp", "edge-pruning"):
        scores = [discover(model, images, method, rivals=each, **others).scores for each in (rivals, None)]
        assert not torch.allclose(*scores), method


def test_two_circuits_are_told_apart_edge_by_edge(tmp_path):
    model = random_model(72, num_layers=3)
    images = random_images(model, count=12)
    first, second = (discover(model, part, tau=0.02, graph=Graph.of(model)) for part in images.split(6))
    compared = compare(first, second)
    ours, theirs = set(first.kept), set(second.kept)
    assert set(first.graph.named(compared.shared)) == ours & theirs
    assert set(first.graph.named(compared.first)) == ours - theirs
    assert set(first.graph.named(compared.second)) == theirs - ours
    assert compared.jaccard == pytest.approx(len(ours & theirs) / len(ours | theirs))
    assert sum(by_layer(first, first.keep_mask)) == len(ours)
    assert by_layer(first, first.keep_mask)[-1] == sum(receiver == "logits" for _, receiver in ours)
    table = comparison_table(compared, first, ("a", "b"))
    assert table.rows[-1] == ("all", *(str(len(edges)) for edges in (ours & theirs, ours - theirs, theirs - ours)))
    write_comparison(tmp_path / "edges.csv", compared, first, second)
    rows = list(csv.DictReader((tmp_path / "edges.csv").read_text().splitlines()))
    assert {(row["sender"], row["receiver"]) for row in rows} == ours | theirs
    assert {(row["sender"], row["receiver"]) for row in rows if row["in_second"] == "yes"} == theirs


def test_circuits_of_different_graphs_are_not_compared():
    model = random_model(73)
    images = random_images(model)
    circuits = [discover(model, images, tau=0.1, graph=Graph.of(model, mlp_groups=groups)) for groups in (1, 2)]
    with pytest.raises(CircuitError, match=r"different graphs .*mlp_groups 1.* and .*mlp_groups 2"):
        compare(*circuits)
