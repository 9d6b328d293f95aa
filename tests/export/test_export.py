import json
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch

from tests.circuit.oracle import random_model
from vitprune.errors import ExportError
from vitprune.export import OnnxModel, Packaged, export_onnx, export_program, simplified
from vitprune.export.packaged import largest_difference
from vitprune.model import Preprocessing, SavedModel, save_model

SHAPES = {
    "whole": {},
    "pruned": {"heads_per_layer": (2, 0, 1), "neurons_per_layer": (0, 7, 12), "token_biases": True},
    "mlps alone": {"heads_per_layer": (0, 0, 0), "token_biases": True},
    "nothing left": {"heads_per_layer": (0, 0, 0), "neurons_per_layer": (0, 0, 0), "token_biases": True},
    "mean, conv": {"pooling": "mean", "patch_embedding": "conv"},
    "sincos, shifted": {"positions": "sincos", "patch_embedding": "shifted"},
}


def saved(**shape):
    model = random_model(1, dtype=torch.float32, num_layers=3, scale=5.0, **shape)
    return SavedModel(model=model, preprocessing=Preprocessing(mean=(0.4,), std=(0.3,)), class_names=("a", "b", "ç"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_onnx_runtime_gives_the_same_answers_to_batches_of_any_size(shape, tmp_path):
    original, path = saved(**shape), tmp_path / "model.onnx"
    assert export_onnx(original, path) < 1e-4
    images = torch.rand(5, 1, 4, 4)
    expected = original.model(original.preprocessing.normalise(images))
    torch.testing.assert_close(OnnxModel(path, threads=1)(images), expected.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_exported_program_runs_without_vitprune(shape, tmp_path):
    original, path = saved(**shape), tmp_path / "model.pt2"
    assert export_program(original, path) < 1e-4
    images = torch.rand(5, 1, 4, 4)
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import sys, torch; sys.modules['vitprune'] = None\n"
        "program = torch.export.load('model.pt2').module()\n"
        "torch.save(program(torch.load('images.pt')), 'logits.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    expected = original.model(original.preprocessing.normalise(images))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt").detach(), expected.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_simplified_model_computes_the_same_without_scales_and_shifts(shape):
    original = saved(**shape)
    original = replace(original, model=original.model.double())
    before = {name: tensor.clone() for name, tensor in original.model.state_dict().items()}
    simple = simplified(original)
    images = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    expected = original.model(original.preprocessing.normalise(images))
    torch.testing.assert_close(simple.model(simple.preprocessing.normalise(images)), expected, rtol=1e-9, atol=1e-9)
    assert not any("norm" in name for name, _ in simple.model.named_parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.model.state_dict().items())
    # Zeros that a shift moves in are those of normalised images.
    assert (simple.preprocessing.mean == (0.0,)) == (shape.get("patch_embedding") != "shifted")


@pytest.mark.parametrize("embedding", ["linear", "conv"])
def test_each_channels_normalisation_finds_its_own_weights(embedding):
    model = random_model(1, in_channels=3, patch_embedding=embedding)
    preprocessing = Preprocessing(mean=(0.1, 0.5, 0.9), std=(0.2, 0.5, 2.0))
    original = SavedModel(model=model, preprocessing=preprocessing, class_names=("a", "b", "c"))
    images = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    simple = simplified(original)
    torch.testing.assert_close(simple.model(images), model(preprocessing.normalise(images)), rtol=1e-9, atol=1e-9)


def test_the_names_of_the_classes_are_in_the_file(tmp_path):
    export_onnx(saved(), tmp_path / "model.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(metadata["class_names"]) == ["a", "b", "ç"]


@pytest.mark.parametrize("answer", [1.0, float("nan")])
def test_other_answers_are_refused(answer):
    packaged = Packaged(saved())
    with pytest.raises(ExportError, match="answers otherwise"):
        largest_difference(packaged, lambda images: packaged(images) + answer)


def test_a_file_that_does_not_pass_does_not_appear(tmp_path):
    broken = saved()
    with torch.no_grad():
        broken.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(ExportError):
        export_onnx(broken, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="pip install onnx onnxscript onnxruntime"):
        export_onnx(saved(), tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [None, b"not a model"])
def test_what_is_no_onnx_file_is_refused_by_name(content, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx: (no such file|not readable as ONNX)"):
        OnnxModel(path)


def test_a_saved_model_loads_in_three_lines_of_python(tmp_path):
    original = saved()
    save_model(tmp_path / "model", replace(original))
    script = (
        "import torch; from vitprune.model import load_model\n"
        "saved = load_model('model')\n"
        "print(saved.model(saved.preprocessing(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "torch.Size([1, 3])\n"
