from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vitprune.report.gradient_flow import draw_gradient_flow
from vitprune.training.gradients import LayerGradient
from vitprune.training.history import EpochRecord, write_gradient_flow, write_history


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        train_loss=1.5 / epoch,
        train_accuracy=None,
        val_loss=1.25,
        val_accuracy=0.5,
        learning_rate=1e-5,
        seconds=2.0,
        images_per_second=123456.789,
    )


FLOW = [
    LayerGradient(epoch=epoch, layer=layer, mean_abs=0.1 / epoch, max_abs=0.0)
    for epoch in (1, 2)
    for layer in ("patches", "a0.qkv", "classifier")
]


def test_the_history_reads_back_as_a_table(tmp_path: Path) -> None:
    write_history(tmp_path / "plots" / "train.csv", [record(1), record(3)])
    table = pd.read_csv(tmp_path / "plots" / "train.csv")
    assert list(table) == [
        *("epoch", "train_loss", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second")
    ]
    assert table["epoch"].tolist() == [1, 3]
    assert table["learning_rate"].tolist() == [1e-5, 1e-5]
    assert table["images_per_second"][0] == 123457


def test_the_gradient_flow_reads_back_as_a_table(tmp_path: Path) -> None:
    write_gradient_flow(tmp_path / "flow.csv", FLOW)
    table = pd.read_csv(tmp_path / "flow.csv")
    assert list(table) == ["epoch", "layer", "mean_abs", "max_abs"]
    assert table["layer"].tolist() == ["patches", "a0.qkv", "classifier"] * 2
    assert table["mean_abs"].tolist() == [0.1] * 3 + [0.05] * 3


def test_the_same_gradients_give_the_same_picture_byte_for_byte(tmp_path: Path) -> None:
    for name in ("first.png", "second.png"):
        draw_gradient_flow(tmp_path / name, FLOW)
    first = (tmp_path / "first.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert first == (tmp_path / "second.png").read_bytes()


def test_a_single_epoch_and_gradients_of_zero_can_be_drawn(tmp_path: Path) -> None:
    zeros = [LayerGradient(epoch=1, layer=layer, mean_abs=0.0, max_abs=0.0) for layer in ("patches", "classifier")]
    draw_gradient_flow(tmp_path / "flow.png", zeros)
    assert (tmp_path / "flow.png").stat().st_size > 1000


def test_no_gradients_are_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no gradients to draw"):
        draw_gradient_flow(tmp_path / "flow.png", [])
    assert not (tmp_path / "flow.png").exists()
