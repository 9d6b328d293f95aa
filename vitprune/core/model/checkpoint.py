"""A trained model on disk: a folder with ``model.safetensors`` and ``config.json``, and no pickle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vitprune.core.model.config import ViTConfig
from vitprune.core.model.vit import ViT
from vitprune.core.packed import FULL_DEPTH
from vitprune.errors import CheckpointError, ConfigError
from vitprune.options import Resize
from vitprune.storage import atomic_folder, check_unchanged, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
LEAST_BYTES_PER_WEIGHT = 2
"""Those of half precision; no model is saved with fewer."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The map from uint8 images to the model's input: ``(x / 255 - mean) / std`` for each channel."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float32 images from uint8 ones, both ``(b, c, height, width)``."""
        return self.normalise(images.float() / 255)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images from float ones between 0 and 1, both ``(b, c, height, width)``."""
        mean = images.new_tensor(self.mean)[:, None, None]
        std = images.new_tensor(self.std)[:, None, None]
        return (images - mean).div_(std)

    def restore(self, images: torch.Tensor) -> torch.Tensor:
        """Float images between 0 and 1 from normalised ones, both ``(b, c, height, width)``."""
        mean = images.new_tensor(self.mean)[:, None, None]
        std = images.new_tensor(self.std)[:, None, None]
        return images * std + mean


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model with its preprocessing and the names of its classes.

    ``resize`` says how its training images became square; it is None for models of earlier versions. ``bit_depth`` is
    how many bits the values of their files with 16 bits for each sample really had.
    """

    model: ViT
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    resize: Resize | None = None
    bit_depth: int = FULL_DEPTH


def save_model(folder: Path, saved: SavedModel) -> None:
    """Write a model folder; it appears whole or not at all."""
    with atomic_folder(folder) as partial:
        write_model(partial, saved)


def write_model(folder: Path, saved: SavedModel) -> None:
    """Write the files of a model into a folder that :func:`vitprune.storage.atomic_folder` opened."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in saved.model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    content = {
        "format": FORMAT,
        "model": asdict(saved.model.config),
        "preprocessing": asdict(saved.preprocessing),
        "class_names": list(saved.class_names),
        "resize": saved.resize,
        "bit_depth": saved.bit_depth,
    }
    write_json(folder / CONFIG, content)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> SavedModel:
    """Read a model folder, in evaluation mode, onto ``device``.

    Raises CheckpointError if a file is missing, broken or changed, or if weights and config do not belong together.
    """
    folder = Path(folder)
    content = _read_config(folder / CONFIG)
    model = _read_weights(folder / WEIGHTS, content.model)
    check_unchanged(folder)
    return SavedModel(
        model=model.eval().to(device),
        preprocessing=content.preprocessing,
        class_names=content.class_names,
        resize=content.resize,
        bit_depth=content.bit_depth,
    )


class _Config(BaseModel):
    """``config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    format: Literal[1]
    model: ViTConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    resize: Resize | None = None
    bit_depth: Annotated[int, Field(ge=8, le=FULL_DEPTH)] = FULL_DEPTH

    @model_validator(mode="after")
    def _parts_belong_together(self) -> _Config:
        if len(self.class_names) != self.model.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.model.num_classes} classes")
        mean, std = self.preprocessing.mean, self.preprocessing.std
        if not len(mean) == len(std) == self.model.in_channels or min(std) <= 0:
            raise ValueError(f"mean and std must be {self.model.in_channels} numbers each, std above 0")
        return self


def _read_config(path: Path) -> _Config:
    content = read_json(path)
    file_format = content.get("format") if isinstance(content, dict) else None
    if isinstance(file_format, int) and file_format != FORMAT:
        raise CheckpointError(
            f"{path}: format {file_format}, but this vitprune reads format {FORMAT}; read it with the version that "
            "wrote it"
        )
    try:
        return _Config.model_validate_json(path.read_bytes())
    except ValidationError as invalid:
        error = invalid.errors()[0]
        reason = f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ")
    except ConfigError as error:
        reason = str(error)
    raise CheckpointError(f"{path}: not a model config ({reason}); run its stage again")


def _read_weights(path: Path, config: ViTConfig) -> ViT:
    """A model of this shape with the weights in a file; it is not built before the file can hold its weights."""
    try:
        if path.stat().st_size < LEAST_BYTES_PER_WEIGHT * config.num_matrix_entries:
            raise CheckpointError(
                f"{path}: does not fit {CONFIG} ({path.stat().st_size:,} bytes for {config.num_matrix_entries:,} "
                "weights); run its stage again"
            )
        weights = load_file(path)
        model = ViT(config)
        model.load_state_dict(weights)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; run its stage again (dvc repro)") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit {CONFIG} ({reason[:200]}); run its stage again") from error
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise CheckpointError(f"{path}: holds weights that are not finite; train again")
    return model
