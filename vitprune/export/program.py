"""Models as exported programs of PyTorch, which run without this package."""

from __future__ import annotations

from pathlib import Path

import torch

from vitprune.export.packaged import Packaged, largest_difference, some_images
from vitprune.export.simplify import simplified
from vitprune.model.checkpoint import SavedModel
from vitprune.storage import atomic_file


def export_program(saved: SavedModel, path: Path, *, simplify: bool = True) -> float:
    """Write the model for ``torch.export.load``, for batches of any size, and return its largest difference.

    It takes images as ``Packaged`` does. Raises ExportError if it gives other answers than the model.
    """
    packaged = Packaged(simplified(saved) if simplify else saved).cpu().eval()
    original = Packaged(saved).cpu().eval()
    program = torch.export.export(
        packaged,
        (some_images(saved.model.config, 2),),
        dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
    )
    with atomic_file(path) as partial:
        # By a handle: the library would name the format by the path's ending.
        with partial.open("wb") as file:
            torch.export.save(program, file)
        with partial.open("rb") as file:
            return largest_difference(original, torch.export.load(file).module())
