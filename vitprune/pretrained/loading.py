"""Load pretrained weights, from a hub or from a file, into a ViT for other images and classes."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vitprune.core.model.checkpoint import Preprocessing
from vitprune.core.model.vit import ViT, ViTConfig
from vitprune.errors import ConfigError, PretrainedError
from vitprune.pretrained.adapt import adapt, check_adaptable
from vitprune.pretrained.conversion import ForeignModel
from vitprune.pretrained.from_timm import find_in_timm
from vitprune.pretrained.from_torchvision import find_in_torchvision

logger = logging.getLogger(__name__)

TORCH_STARTS = (b"PK", b"\x80")
"""How PyTorch's files begin: zip archives and, before version 1.6, pickles."""
LFS_POINTER = b"version https://git-lfs"
CHECKPOINT_KEYS = ("model", "state_dict", "model_state_dict")
"""Where checkpoints keep the weights."""
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
"""What wrappers put before the name of every weight."""


def load_pretrained(
    name: str, config: ViTConfig, *, path: Path | None = None, generator: torch.Generator | None = None
) -> tuple[ViT, Preprocessing]:
    """A ViT of shape ``config`` with pretrained layers and a new classifier, and the normalisation that they expect.

    ``name`` is ``timm/NAME`` or ``torchvision/NAME``, where NAME may end in ``.TAG`` to choose among its weights. The
    weights come from the library's hub, or from the file ``path``. The classifier is drawn from ``generator``.

    Raises PretrainedError if there is no such model, if our ViT does not support it, or if its weights cannot be
    loaded; and ConfigError, with the values to set, if ``config`` has another shape. Name and shape are checked before
    anything is downloaded.
    """
    with _errors_naming(name):
        foreign = _find(name)
        check_adaptable(foreign.convert(foreign.model).config, config)
        _load(foreign, _download(foreign, name) if path is None else read_weights(path))
        model = adapt(foreign.convert(foreign.model), config, generator)
        return model, _preprocessing(foreign, config.in_channels)


def _find(name: str) -> ForeignModel:
    library, _, model_name = name.partition("/")
    finders = {"timm": find_in_timm, "torchvision": find_in_torchvision}
    if library not in finders or not model_name:
        raise PretrainedError("it is neither timm/NAME nor torchvision/NAME, such as timm/vit_tiny_patch16_224")
    return finders[library](model_name)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read weights from a safetensors file or from a PyTorch file; its content decides which, not its name.

    A PyTorch file may be a checkpoint that holds the weights beside other things. Wrappers' prefixes, which all names
    share, are left out. Raises PretrainedError if there is no such file, or if it does not hold weights.
    """
    where = f"model.pretrained_path {path}"
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise PretrainedError(f"{where} is a pointer of Git LFS, not the file itself; run git lfs pull")
        content = _load_torch(path) if start.startswith(TORCH_STARTS) else load_file(path)
    except FileNotFoundError:
        raise PretrainedError(
            f"{where} does not exist (paths are relative to the working directory {Path.cwd()})"
        ) from None
    except PretrainedError:
        raise
    # The parsers raise nearly any exception on broken files (struct.error, IndexError, …).
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(
            f"{where} is not readable as weights ({reason}); give a .safetensors file, or a .pth file of PyTorch"
        ) from None
    for key in CHECKPOINT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise PretrainedError(f"{where} holds more than weights; save the model's state_dict() alone")
    if not all(bool(tensor.isfinite().all()) for tensor in content.values()):
        raise PretrainedError(f"{where} holds weights that are not finite; give another file")
    return _without_prefixes(content)


def _load_torch(path: Path) -> Any:
    # Not by its path, whose ending torch.load would believe.
    with path.open("rb") as file, warnings.catch_warnings():
        # Of TorchScript, which is then refused.
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without what DistributedDataParallel, torch.compile and trainers put before all names."""
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _download(foreign: ForeignModel, name: str) -> Mapping[str, Tensor]:
    logger.info("weights of %s: from the hub, or from its cache", name)
    try:
        return foreign.download()
    except PretrainedError:
        raise
    # The hubs' clients raise errors of many types without a common base.
    except Exception as error:
        # Addresses may carry signatures.
        reason = re.sub(r"\w+://\S+", "…", " ".join(str(error).split()))[:200]
        raise PretrainedError(
            f"its weights could not be downloaded ({type(error).__name__}: {reason}); try again with a network, or get "
            "the file by hand and set model.pretrained_path to it"
        ) from None


def _load(foreign: ForeignModel, weights: Mapping[str, Tensor]) -> None:
    """Load weights under the library's names into its model, except those of the classifier."""
    others = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{foreign.classifier}.")}
    try:
        result = foreign.model.load_state_dict(others, strict=False)
    except RuntimeError as error:
        raise PretrainedError(f"the weights have another shape ({' '.join(str(error).split())[:200]})") from None
    missing = [name for name in result.missing_keys if not name.startswith(f"{foreign.classifier}.")]
    if missing or result.unexpected_keys:
        difference, names = ("lack", missing) if missing else ("also have", result.unexpected_keys)
        raise PretrainedError(f"the weights are of another model: they {difference} {', '.join(names[:3])}")


def _preprocessing(foreign: ForeignModel, channels: int) -> Preprocessing:
    """The normalisation of the pretrained model; for grey images, its mean over the three channels."""
    if channels == len(foreign.mean):
        return Preprocessing(mean=foreign.mean, std=foreign.std)
    return Preprocessing(mean=(fmean(foreign.mean),), std=(fmean(foreign.std),))


@contextmanager
def _errors_naming(name: str) -> Iterator[None]:
    try:
        yield
    except (ConfigError, PretrainedError) as error:
        raise type(error)(f"model.pretrained {name}: {error}") from None
