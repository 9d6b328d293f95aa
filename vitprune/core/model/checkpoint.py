"""A trained model on disk: a folder with ``model.safetensors`` and ``config.json``, and no pickle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vitprune.core.model.config import ViTConfig
from vitprune.core.model.vit import ViT
from vitprune.errors import CheckpointError, ConfigError
from vitprune.storage import atomic_folder, check_unchanged, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The map from uint8 images to the model's input: ``(x / 255 - mean) / std`` for each channel."""

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
    """A model with its preprocessing and the names of its classes."""

    model: ViT
    preprocessing: Preprocessing
    class_names: tuple[str, ...]


def save_model(folder: Path, saved: SavedModel) -> None:
    """Write a model folder; it appears whole or not at all."""
    with atomic_folder(folder) as partial:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in saved.model.state_dict().items()}
        save_file(weights, partial / WEIGHTS)
        content = {
            "format": FORMAT,
            "model": asdict(saved.model.config),
            "preprocessing": asdict(saved.preprocessing),
            "class_names": list(saved.class_names),
        }
        write_json(partial / CONFIG, content)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> SavedModel:
    """Read a model folder, in evaluation mode, onto ``device``.

    Raises CheckpointError if a file is missing, broken or changed, or if weights and config do not belong together.
    """
    folder = Path(folder)
    content = read_json(folder / CONFIG)
    try:
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{folder / CONFIG}: format {content['format']}, but this vitprune reads format {FORMAT}; "
                "read it with the version that wrote it"
            )
        config = ViTConfig(**content["model"])
        preprocessing = Preprocessing(**{key: tuple(values) for key, values in content["preprocessing"].items()})
        class_names = tuple(content["class_names"])
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not a model config ({error!r}); run its stage again") from error
    model = ViT(config)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise CheckpointError(f"{folder / WEIGHTS}: no such file; run its stage again (dvc repro)") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} ({reason[:200]}); run its stage again"
        ) from error
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise CheckpointError(f"{folder / WEIGHTS}: holds weights that are not finite; train again")
    check_unchanged(folder)
    model.eval().to(device)
    return SavedModel(model=model, preprocessing=preprocessing, class_names=class_names)
