import json
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch

from tests.circuit.oracle import random_model
from vitprune.core.model import Preprocessing, SavedModel
from vitprune.errors import ExportError
from vitprune.export import OnnxModel, Packaged, export_onnx, export_program, simplified
from vitprune.export.packaged import largest_difference

pytestmark = pytest.mark.slow

SHAPES = {
    "whole": {},
    "pruned": {"heads_per_layer": (2, 0, 1), "neurons_per_layer": (0, 7, 12), "token_biases": True},
    "nothing left": {"heads_per_layer": (0, 0, 0), "neurons_per_layer": (0, 0, 0), "token_biases": True},
    "mean, conv": {"pooling": "mean", "patch_embedding": "conv"},
    "sincos, shifted": {"positions": "sincos", "patch_embedding": "shifted"},
}


def saved(**shape):
    model = random_model(1, dtype=torch.float32, num_layers=3, scale=5.0, **shape)
    return SavedModel(model=model, preprocessing=Preprocessing(mean=(0.4,), std=(0.3,)), class_names=("a", "b", "ç"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_onnx_file_has_the_names_of_the_classes_and_gives_the_same_logits_for_batches_of_any_size(shape, tmp_path):
    original, path = saved(**shape), tmp_path / "model.onnx"
    assert export_onnx(original, path) < 1e-4
    images = torch.rand(5, 1, 4, 4)
    expected = original.model(original.preprocessing.normalise(images))
    torch.testing.assert_close(OnnxModel(path, threads=1)(images), expected.detach(), rtol=1e-3, atol=1e-4)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["class_names"]) == ["a", "b", "ç"]


RUN_PROGRAMS = """
import sys, torch

sys.modules["vitprune"] = None
images = torch.load("images.pt")
for name in sys.argv[1:]:
    torch.save(torch.export.load(f"{name}.pt2").module()(images), f"{name}.pt")
"""


def test_exported_programs_run_without_vitprune(tmp_path):
    originals = {name: saved(**SHAPES[name]) for name in ("pruned", "mean, conv", "sincos, shifted")}
    for name, original in originals.items():
        assert export_program(original, tmp_path / f"{name}.pt2") < 1e-4
    images = torch.rand(5, 1, 4, 4)
    torch.save(images, tmp_path / "images.pt")
    # One process for all, because each takes seconds to start.
    subprocess.run([sys.executable, "-c", RUN_PROGRAMS, *originals], cwd=tmp_path, check=True)
    for name, original in originals.items():
        expected = original.model(original.preprocessing.normalise(images))
        logits = torch.load(tmp_path / f"{name}.pt")
        torch.testing.assert_close(logits.detach(), expected.detach(), rtol=1e-3, atol=1e-4)


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


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_other_logits_are_refused(error):
    packaged = Packaged(saved())
    with pytest.raises(ExportError, match="differs from the original"):
        largest_difference(packaged, lambda images: packaged(images) + error)


def test_a_file_that_does_not_pass_does_not_appear(tmp_path):
    broken = saved(**SHAPES["nothing left"])
    with torch.no_grad():
        broken.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(ExportError):
        export_onnx(broken, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="pip install onnx onnxscript onnxruntime"):
        export_onnx(saved(), tmp_path / "model.onnx")


@pytest.mark.fault("an ONNX file that is none, or is missing", "it is refused by name")
@pytest.mark.parametrize("content", [None, b"not a model"])
def test_what_is_not_an_onnx_file_is_refused_by_name(content, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx: (no such file|not readable as ONNX)"):
        OnnxModel(path)


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE])
def test_a_file_gets_images_in_the_precision_that_it_takes(tmp_path, kind):
    save_identity(tmp_path / "model.onnx", ["b", 1, 2, 2], kind)
    images = torch.rand(3, 1, 2, 2)
    torch.testing.assert_close(OnnxModel(tmp_path / "model.onnx")(images).float(), images, atol=1e-3, rtol=1e-3)


@pytest.mark.fault("an ONNX file that takes whole numbers", "it is refused with what it takes")
def test_a_file_that_takes_whole_numbers_is_refused(tmp_path):
    save_identity(tmp_path / "model.onnx", ["b", 1, 2, 2], onnx.TensorProto.UINT8)
    with pytest.raises(ExportError, match=r"takes a tensor\(uint8\), not images of floating-point numbers"):
        OnnxModel(tmp_path / "model.onnx")


@pytest.mark.fault("an ONNX file of free height and width", "it is refused with what it takes")
def test_a_file_that_takes_no_images_of_a_fixed_size_is_refused(tmp_path):
    path = tmp_path / "any.onnx"
    save_identity(path, ["b", 1, "height", "width"])
    with pytest.raises(ExportError, match=r"any\.onnx: takes inputs of shape \(1, 'height', 'width'\)"):
        OnnxModel(path, threads=1).input_shape  # noqa: B018


@pytest.mark.fault("an ONNX file of a fixed batch, timed at another", "it is refused with both")
def test_a_file_that_does_not_take_such_a_batch_is_refused(tmp_path):
    path = tmp_path / "one.onnx"
    save_identity(path, [1, 1, 4, 4])
    model = OnnxModel(path, threads=1)
    images = torch.rand(1, 1, 4, 4)
    assert torch.equal(model(images), images)
    with pytest.raises(ExportError, match=r"one\.onnx: does not run on images \(2, 1, 4, 4\)"):
        model(torch.rand(2, 1, 4, 4))


def save_identity(path, shape, kind=onnx.TensorProto.FLOAT):
    """A file of somebody else's that returns its input, numbers of some kind."""
    ends = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "identity", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
