"""Pictures of a circuit, of what pruning left, and of what a model is wrong about."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tests.report.page.conftest import random_run
from tests.training.conftest import tiny_config
from vitprune.report.circuit_picture import MAX_EDGES, draw_circuit
from vitprune.report.kept import draw_kept
from vitprune.report.worst import Opinion, draw_worst, worst_images

SVG = "{http://www.w3.org/2000/svg}"


def texts_of(draw, monkeypatch):
    """What is written in a picture."""
    found = []

    def keep_texts(figure, path, **kwargs):
        found.extend(text.get_text() for text in figure.findobj(Text))
        path.touch()

    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", keep_texts)
        draw()
    return found


def test_the_circuit_is_drawn_with_its_nodes_alone_and_the_same_each_time(tmp_path, monkeypatch):
    circuit = random_run().circuit
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        draw_circuit(tmp_path / name, circuit)
    for ending in ("svg", "png"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 500
    texts = texts_of(lambda: draw_circuit(tmp_path / "c.png", circuit), monkeypatch)
    drawn = {"image", "logits", *(name.split(".")[-1] for name in circuit.closed().live_nodes)}
    assert drawn <= set(texts)
    assert any(f"{len(circuit.closed().kept)} of {len(circuit.graph.edges)} edges" in text for text in texts)


def test_of_many_edges_those_with_the_largest_scores_are_drawn(tmp_path, monkeypatch):
    run = random_run(num_layers=4, mlp_groups=4)
    circuit = replace(run.circuit, keep_mask=run.circuit.graph.all_edges)
    assert len(circuit.kept) > MAX_EDGES
    texts = texts_of(lambda: draw_circuit(tmp_path / "a.png", circuit), monkeypatch)
    assert any(f"of which the {MAX_EDGES} with the largest scores are drawn" in text for text in texts)


@pytest.mark.fault("a circuit that keeps nothing", "its picture is drawn all the same")
def test_an_empty_circuit_can_be_drawn(tmp_path):
    circuit = random_run().circuit
    draw_circuit(tmp_path / "a.png", replace(circuit, keep_mask=torch.zeros_like(circuit.keep_mask)))
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_an_attribution_far_below_zero_is_wide(tmp_path, monkeypatch):
    circuit = random_run().circuit
    widths = []
    for sign in (1, -1):
        edges = []
        monkeypatch.setattr("vitprune.report.circuit_picture._draw_edge", lambda *edge, edges=edges: edges.append(edge))
        draw_circuit(tmp_path / "a.png", replace(circuit, scores=sign * circuit.scores.nan_to_num(0.0)))
        widths.append([(start, end, width) for _, start, end, _, width in edges])
    assert widths[0] == widths[1]


def test_what_is_kept_is_written_on_each_bar(tmp_path, monkeypatch):
    config = tiny_config(heads_per_layer=(1, 0), neurons_per_layer=(0, 24))
    texts = texts_of(lambda: draw_kept(tmp_path / "a.png", config), monkeypatch)
    assert "1 of 4 heads kept" in texts
    assert "24 of 64 neurons kept" in texts
    assert texts.count("0") >= 2


def test_the_worst_images_are_those_with_the_least_probability_for_their_class(tmp_path):
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0], [1.0, 1.0]])
    labels = np.array([0, 0, 0, 1])
    found = worst_images(logits, labels, 3)
    assert [opinion.index for opinion in found] == [1, 2, 3]
    shares = torch.tensor([0.0, 2.0]).softmax(0)
    assert found[0] == Opinion(
        index=1, label=0, predicted=1, of_label=float(found[0].of_label), of_predicted=float(found[0].of_predicted)
    )
    np.testing.assert_allclose([found[0].of_label, found[0].of_predicted], shares, rtol=1e-6)
    for channels in (1, 3):
        images = np.random.default_rng(0).integers(0, 256, (4, channels, 6, 6), dtype=np.uint8)
        draw_worst(tmp_path / f"{channels}.png", found, images, ("a", "b" * 50))
        assert (tmp_path / f"{channels}.png").stat().st_size > 1000
