import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.circuit.oracle import random_images, random_model
from vitprune.core.model import Preprocessing, SavedModel, save_model
from vitprune.core.model.score import Score
from vitprune.evaluation.summary import (
    model_bytes,
    model_metrics,
    multiply_adds,
    num_parameters,
    summarise,
    summary_table,
)


def counted(model, images):
    """Multiply-adds as PyTorch counts them, with attention written out so that it sees every product."""
    with FlopCounterMode(display=False) as counter, nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        model(images)
    return counter.get_total_flops() // 2


def test_multiply_adds_are_those_that_pytorch_counts():
    for shape in (
        {},
        {"patch_embedding": "conv", "in_channels": 3},
        {"patch_embedding": "shifted", "in_channels": 3, "pooling": "mean"},
        {"patch_embedding": "shifted", "positions": "sincos"},
        {"num_layers": 3, "heads_per_layer": (2, 0, 1), "neurons_per_layer": (0, 7, 12), "token_biases": True},
    ):
        model = random_model(dtype=torch.float32, **shape)
        assert multiply_adds(model.config) == counted(model, random_images(model, count=1))


def test_parameters_are_counted_once():
    model = random_model(num_layers=1)
    assert num_parameters(model) == sum(tensor.numel() for tensor in model.state_dict().values())
    fixed = random_model(num_layers=1, positions="sincos")
    assert num_parameters(model) - num_parameters(fixed) == model.positions.numel()


def saved_in(folder, **shape):
    model = random_model(dtype=torch.float32, **shape)
    saved = SavedModel(model=model, preprocessing=Preprocessing(mean=(0.4,), std=(0.3,)), class_names=("a", "b", "c"))
    save_model(folder, saved)
    return saved


def test_a_models_size_is_that_of_its_weights_and_config(tmp_path):
    saved = saved_in(tmp_path / "model")
    size = sum((tmp_path / "model" / name).stat().st_size for name in ("model.safetensors", "config.json"))
    (tmp_path / "model" / "notes.txt").write_text("not the model")
    found = Score(loss=0.5, accuracy=0.75, balanced_accuracy=0.7, top5=None)
    metrics = model_metrics(saved, model_bytes(tmp_path / "model"), found)
    assert metrics == {
        "loss": 0.5,
        "balanced_accuracy": 0.7,
        "accuracy": 0.75,
        "parameters": num_parameters(saved.model),
        "multiply_adds": multiply_adds(saved.model.config),
        "bytes": size,
    }
    assert summarise(saved, tmp_path / "model")["bytes"] == size


def test_the_summary_compares_each_layer_with_the_unpruned_model(tmp_path):
    shape = {"heads_per_layer": (1, 0), "neurons_per_layer": (0, 5), "token_biases": True}
    summary = summarise(saved_in(tmp_path / "model", **shape), tmp_path / "model")
    assert summary["multiply_adds_before"] == multiply_adds(random_model().config)
    table = summary_table(summary)
    assert table.rows == (("0", "1 of 2", "0 of 12"), ("1", "0 of 2", "5 of 12"), ("all", "1 of 4", "5 of 24"))
    assert "4×4 images with 1 channel in patches of 2×2, 5 tokens of width 8, 3 classes." in table.caption
