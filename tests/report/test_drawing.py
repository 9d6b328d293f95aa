"""Pictures are drawn whatever the classes are called."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from vitprune.report.augmented import draw_augmented
from vitprune.report.confusion import draw_confusion
from vitprune.report.drawing import shortened
from vitprune.report.gradient_flow import draw_gradient_flow
from vitprune.report.pareto import Experiment, draw_pareto
from vitprune.training.gradients import LayerGradient

ODD_NAMES = ("$5_$10", "$\\frac{$", "\u4e2d\u6587 \u0645", "x" * 300, "_^{}%&#~", "", "two\nlines")


@pytest.mark.fault("class names with dollar signs, unknown letters or great length", "pictures show them as they are")
def test_odd_class_names_are_drawn(tmp_path):
    count = len(ODD_NAMES)
    draw_confusion(tmp_path / "confusion.png", np.ones((count, count), np.int64), ODD_NAMES)
    draw_augmented(tmp_path / "augmented.png", torch.rand(count, 1, 4, 4), torch.eye(count), ODD_NAMES)
    experiments = [Experiment(name=name, accuracy=0.9, speedup=2.0, control_accuracy=0.9) for name in ODD_NAMES[:2]]
    draw_pareto(tmp_path / "pareto.png", experiments, 8)
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_dollar_signs_are_letters_like_others(tmp_path):
    for name, text in (("a", "$x^2$"), ("b", "x^2")):
        draw_confusion(tmp_path / name, np.ones((2, 2), np.int64), (text, "other"))
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_numbers_on_logarithmic_axes_are_no_formulas(tmp_path, monkeypatch):
    texts = []

    def keep_texts(figure, path, **kwargs):
        figure.draw_without_rendering()
        path.touch()
        texts.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", keep_texts)
    sizes = (0.1, 0.01, 0.001, 0.0)
    draw_gradient_flow(
        tmp_path / "flow.png",
        [LayerGradient(epoch=n, layer=f"m{n}.out", mean_abs=size, max_abs=size) for n, size in enumerate(sizes)],
    )
    assert "0.01" in texts
    assert not [text for text in texts if "$" in text]


def test_a_long_name_is_cut():
    assert [shortened(name, 5) for name in ("short", "longer")] == ["short", "long…"]
