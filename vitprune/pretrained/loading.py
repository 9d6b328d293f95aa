"""A ViT that starts from pretrained weights, which come from a hub or from a file."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitprune.errors import ConfigError, PretrainedError
from vitprune.model.checkpoint import Preprocessing
from vitprune.model.vit import ViT, ViTConfig
from vitprune.pretrained.adapt import adapt, check_adaptable
from vitprune.pretrained.zoo import Source, find

logger = logging.getLogger(__name__)


def load_pretrained(
    name: str, config: ViTConfig, *, path: Path | None = None, generator: torch.Generator | None = None
) -> tuple[ViT, Preprocessing]:
    """A ViT of shape ``config`` with pretrained layers and a new classifier, and the normalisation that they expect.

    ``name`` is ``timm/NAME`` or ``torchvision/NAME``. The weights come from the library's hub, or from the file
    ``path``. The classifier is drawn from ``generator``.

    Raises PretrainedError if there is no such model, if our ViT cannot express it, or if its weights cannot be had;
    ConfigError, with the values to set, if ``config`` is of another shape. Both come before anything is downloaded.
    """
    with _told_by_name(name):
        source = find(name)
        check_adaptable(source.convert(source.model).config, config)
        _load(source, _download(source, name) if path is None else read_weights(path))
        model = adapt(source.convert(source.model), config, generator)
        return model, _preprocessing(source, config.in_channels)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file of safetensors, or in one of PyTorch, in which they may lie under ``model``.

    Raises PretrainedError if there is no such file, or if it holds no weights.
    """
    where = f"model.pretrained_path {path}"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PretrainedError(
            f"{where} does not exist (paths are relative to the working directory {Path.cwd()})"
        ) from None
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(
            f"{where} is not readable as weights ({reason}); give a .safetensors file, or a .pth file of PyTorch"
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise PretrainedError(f"{where} holds other things than weights; save the model's state_dict() alone")
    return content


def _download(source: Source, name: str) -> Mapping[str, Tensor]:
    logger.info("weights of %s: from the hub, or from its cache", name)
    try:
        return source.download()
    except PretrainedError:
        raise
    # The hubs' clients raise errors of many kinds, which share no base.
    except Exception as error:
        # Addresses may be signed.
        reason = re.sub(r"\w+://\S+", "…", " ".join(str(error).split()))[:200]
        raise PretrainedError(
            f"its weights could not be downloaded ({type(error).__name__}: {reason}); try again with a network, or get "
            "the file by hand and set model.pretrained_path to it"
        ) from None


def _load(source: Source, weights: Mapping[str, Tensor]) -> None:
    """Put weights under the library's names into its model; those of the classifier are left out."""
    others = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{source.classifier}.")}
    try:
        result = source.model.load_state_dict(others, strict=False)
    except RuntimeError as error:
        raise PretrainedError(f"the weights are of another shape ({' '.join(str(error).split())[:200]})") from None
    missing = [name for name in result.missing_keys if not name.startswith(f"{source.classifier}.")]
    if missing or result.unexpected_keys:
        kind, names = ("no", missing) if missing else ("also", result.unexpected_keys)
        raise PretrainedError(f"the weights are of another model: there is {kind} {', '.join(names[:3])}")


def _preprocessing(source: Source, channels: int) -> Preprocessing:
    """For grey images, the mean of what the three channels expect."""
    if channels == len(source.mean):
        return Preprocessing(mean=source.mean, std=source.std)
    return Preprocessing(mean=(fmean(source.mean),), std=(fmean(source.std),))


@contextmanager
def _told_by_name(name: str) -> Iterator[None]:
    try:
        yield
    except (ConfigError, PretrainedError) as error:
        raise type(error)(f"model.pretrained {name}: {error}") from None
