from __future__ import annotations

import pytest
import torch

from tests.training.conftest import recipe, same_weights, tiny_model, train_tiny
from vitprune.errors import TrainingError


@pytest.fixture
def compile_by(monkeypatch):
    """Choose what compiles the graph that PyTorch traces: PyTorch's own compiler takes minutes."""
    compile_module = torch.nn.Module.compile

    def choose(backend) -> None:
        monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend=backend))

    yield choose
    torch.compiler.reset()


@pytest.mark.slow
def test_a_traced_model_learns_the_same(splits, trained, compile_by):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_by(backend)
    model = tiny_model()
    result = train_tiny(model, *splits, recipe(compile=True))
    assert graphs
    for record, plain in zip(result.history, trained.result.history, strict=True):
        assert (record.train_loss, record.val_loss) == pytest.approx((plain.train_loss, plain.val_loss), abs=1e-4)
    assert model.state_dict().keys() == trained.model.state_dict().keys()


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_is_refused_in_one_sentence(splits, compile_by):
    def backend(graph, inputs):
        raise RuntimeError("no compiler\nmore of it")

    compile_by(backend)
    model = tiny_model(num_layers=1)
    with pytest.raises(TrainingError, match=r"the model cannot be compiled here \(no compiler\); set train\."):
        train_tiny(model, *splits, recipe(compile=True))
    assert same_weights(model, tiny_model(num_layers=1))
