import pandas as pd
import pytest
import torch
from PIL import Image

from vitprune.circuit import Graph
from vitprune.circuit.stability import Agreement, Stability
from vitprune.report.stability import draw_stability, write_stability

GRAPH = Graph((1,), (4,))


@pytest.fixture
def stability():
    """Three of four samples keep embed → logits, all keep embed → m0, one keeps m0 → logits."""
    masks = torch.stack([GRAPH.mask_of([("embed", "m0")]) for _ in range(4)])
    masks |= torch.stack([GRAPH.mask_of([("embed", "logits")] if number else []) for number in range(4)])
    masks[1] |= GRAPH.mask_of([("m0", "logits")])
    return Stability(graph=GRAPH, masks=masks)


def test_the_csv_has_the_edges_that_the_circuit_or_a_sample_keeps(tmp_path, stability):
    write_stability(tmp_path / "a.csv", stability, GRAPH.mask_of([("embed", "m0"), ("a0.h0", "m0")]))
    rows = pd.read_csv(tmp_path / "a.csv").set_index(["sender", "receiver"])
    assert rows.to_dict("index") == {
        ("embed", "m0"): {"frequency": 1.0, "verdict": "in", "in_circuit": "yes"},
        ("a0.h0", "m0"): {"frequency": 0.0, "verdict": "out", "in_circuit": "yes"},
        ("embed", "logits"): {"frequency": 0.75, "verdict": "undecided", "in_circuit": "no"},
        ("m0", "logits"): {"frequency": 0.25, "verdict": "undecided", "in_circuit": "no"},
    }


def test_the_picture_is_the_same_each_time_and_there_without_samples(tmp_path, stability):
    agreement = Agreement(kl=torch.zeros(4, 4).double(), same_class=torch.ones(4, 4).double())
    for name in ("a.png", "b.png"):
        draw_stability(tmp_path / name, stability, agreement)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    draw_stability(tmp_path / "none.png", None, None)
    write_stability(tmp_path / "none.csv", None, GRAPH.all_edges)
    assert len(pd.read_csv(tmp_path / "none.csv")) == 0
    with Image.open(tmp_path / "none.png") as image:
        assert image.size[0] > 600
