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

from vitprune.errors import ExportError
from vitprune.export.packaged import Packaged, largest_difference, some_images
from vitprune.export.simplify import simplified
from vitprune.model.checkpoint import SavedModel
from vitprune.storage import atomic_file


def export_onnx(saved: SavedModel, path: Path, *, simplify: bool = True) -> float:
    """Write the model as an ONNX file for batches of any size, and return its largest difference from the original.

    Input ``images`` are as for ``Packaged``, output ``logits``; the names of the classes are in the file's metadata.
    The file appears when ONNX Runtime has given the same answers. Raises ExportError if it did not, or if ONNX is not
    installed.
    """
    for name in ("onnx", "onnxscript"):
        _import(name)
    for name in ("onnxscript", "onnx_ir"):
        # They tell what they optimised and what not.
        logging.getLogger(name).setLevel(logging.ERROR)
    packaged = Packaged(simplified(saved) if simplify else saved).cpu().eval()
    original = Packaged(saved).cpu().eval()
    with atomic_file(path) as partial:
        with warnings.catch_warnings():
            # Of the exporter's own making.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                packaged,
                (some_images(saved.model.config, 2),),
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
    """An ONNX file with one input and one output, run on the CPU by ONNX Runtime."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Its threads would go on spinning where another model takes its turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Of warnings, which a user can do nothing about, and errors, which are raised, only the latter.
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except FileNotFoundError:
            raise ExportError(f"{path}: no such file") from None
        except Exception as error:
            # The runtime's errors share no base.
            raise ExportError(f"{path}: not readable as ONNX ({' '.join(str(error).split())[:200]})") from None
        self._input = self._session.get_inputs()[0].name

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(c, height, width)`` of the images that it takes."""
        return tuple(self._session.get_inputs()[0].shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run(None, {self._input: images.numpy()})[0])


def _import(name: str) -> Any:
    # Late, because they are optional.
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ExportError(
            f"ONNX needs {name}, which is not installed; install it with: pip install onnx onnxscript onnxruntime"
        ) from None
