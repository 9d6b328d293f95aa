from dataclasses import asdict

import numpy as np
import pandas as pd
from PIL import Image

from vitprune.circuit.faithfulness import Faithfulness
from vitprune.report.faithfulness import draw_faithfulness, write_faithfulness

EMPTY, HALF, FULL = (
    Faithfulness(edges=edges, kl=kl, accuracy=accuracy, recovered=recovered, f=recovered)
    for edges, kl, accuracy, recovered in ((0, 2.0, 0.1, 0.0), (5, 9.0, 0.2, -3.5), (10, 0.0, 0.9, 1.0))
)
CURVES = {"found": [EMPTY, HALF, FULL], "eap_ig": [EMPTY, FULL]}


def test_the_plot_is_the_same_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        draw_faithfulness(tmp_path / name, CURVES, HALF, "acdc-edge", 10)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 600
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_the_csv_has_a_row_for_each_circuit(tmp_path):
    write_faithfulness(tmp_path / "a.csv", CURVES, HALF, "acdc-edge")
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table["method"]) == ["found", "found", "found", "eap_ig", "eap_ig"]
    assert table.drop(columns="method").iloc[1].to_dict() == asdict(HALF)


def test_without_curves_the_csv_and_the_plot_have_the_circuit_alone(tmp_path):
    write_faithfulness(tmp_path / "a.csv", {}, HALF, "acdc-edge")
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table["method"]) == ["acdc-edge"]
    assert table.drop(columns="method").iloc[0].to_dict() == asdict(HALF)
    draw_faithfulness(tmp_path / "a.png", {}, HALF, "acdc-edge", 10)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
