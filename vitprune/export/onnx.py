"""Models as ONNX files, and ONNX files as models.

Legend of dimensions: b images, c channels.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitprune.core.model.checkpoint import SavedModel
from vitprune.errors import ExportError
from vitprune.export.packaged import Packaged, example_images, largest_difference
from vitprune.export.simplify import simplified
from vitprune.storage import atomic_file

INPUT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
"""What a model may take, by ONNX Runtime's name for it."""


def export_onnx(saved: SavedModel, path: Path, *, simplify: bool = True) -> float:
    """Write the model as an ONNX file for batches of any size.

    The input ``images`` is that of ``Packaged``, the output is ``logits``. The names of the classes are in the file's
    metadata. Returns the largest difference from the original, as ONNX Runtime computes it. Raises ExportError if that
    is more than rounding, or if ONNX is not installed.
    """
    for name in ("onnx", "onnxscript"):
        _import(name)
    for name in ("onnxscript", "onnx_ir"):
        # Both report every optimisation.
        logging.getLogger(name).setLevel(logging.ERROR)
    packaged = Packaged(simplified(saved) if simplify else saved).cpu().eval()
    original = Packaged(saved).cpu().eval()
    with atomic_file(path) as partial:
        with warnings.catch_warnings():
            # The exporter causes them itself.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                packaged,
                (example_images(saved.model.config, 2),),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props["class_names"] = json.dumps(saved.class_names, ensure_ascii=False)
        program.save(partial)
        return largest_difference(original, OnnxModel(partial))


class OnnxModel(nn.Module):
    """An ONNX file with one input and one output, run on the CPU by ONNX Runtime.

    Raises ExportError if the file is missing or not a model, or cannot run on the images that it is given.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Its threads must not go on spinning while another model takes its turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Errors only: a user can do nothing about the warnings.
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except FileNotFoundError:
            raise ExportError(f"{path}: no such file") from None
        except Exception as error:
            # The runtime's errors share no base class.
            raise ExportError(f"{path}: not readable as ONNX ({' '.join(str(error).split())[:200]})") from None
        self._path, self._input = path, self._session.get_inputs()[0]
        if self._input.type not in INPUT_TYPES:
            raise ExportError(f"{path}: takes a {self._input.type}, not images of floating-point numbers")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(c, height, width)`` of the images that it takes; ExportError if the file does not fix them."""
        shape = tuple(self._input.shape[1:])
        if len(shape) != 3 or not all(isinstance(size, int) for size in shape):
            raise ExportError(f"{self._path}: takes inputs of shape {shape}, not images of a fixed size")
        return shape

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.numpy().astype(INPUT_TYPES[self._input.type], copy=False)
        try:
            return torch.from_numpy(self._session.run(None, {self._input.name: pixels})[0])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"{self._path}: does not run on images {tuple(images.shape)} ({reason})") from None


def _import(name: str) -> Any:
    # Imported late, because they are optional.
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ExportError(
            f"ONNX needs {name}, which is not installed; install it with: pip install onnx onnxscript onnxruntime"
        ) from None
