"""A model as a file that other runtimes execute: ONNX, or PyTorch's exported program."""

from vitprune.export.onnx import OnnxModel, export_onnx
from vitprune.export.packaged import Packaged, export_program
from vitprune.export.simplify import simplified

__all__ = ["OnnxModel", "Packaged", "export_onnx", "export_program", "simplified"]
