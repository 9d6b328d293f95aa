"""Pretrained models by name: architectures of timm and torchvision, and the weights that their hubs hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from vitprune.errors import PretrainedError
from vitprune.model.vit import ViT
from vitprune.pretrained.from_timm import from_timm, import_timm
from vitprune.pretrained.from_torchvision import from_torchvision

NUM_CLASSES = 1
"""Of the models here: their classifier is replaced, and timm leaves the pretrained one out if it is of another size."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model of another library whose weights are still random, and what is known about those that it could have.

    ``mean`` and ``std`` normalise pixels from 0 to 1, for each channel. ``classifier`` is the name of its last module.
    ``download`` gets the weights under the library's names, from its hub or the hub's cache on this machine.
    """

    model: nn.Module
    convert: Callable[[nn.Module], ViT]
    classifier: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    download: Callable[[], Mapping[str, Tensor]]


def find(name: str) -> Source:
    """The model called ``timm/NAME`` or ``torchvision/NAME``, where NAME may end in ``.TAG``, which of its weights.

    Raises PretrainedError with the nearest names if there is no such model, or if its library is not installed.
    """
    library, _, rest = name.partition("/")
    finders = {"timm": _in_timm, "torchvision": _in_torchvision}
    if library not in finders or not rest:
        raise PretrainedError("it is neither timm/NAME nor torchvision/NAME, such as timm/vit_tiny_patch16_224")
    return finders[library](rest)


def _in_timm(name: str) -> Source:
    timm = import_timm()
    _check_known(name, [*timm.list_models(), *timm.list_models(include_tags=True)], "timm")
    model: Any = timm.create_model(name, num_classes=NUM_CLASSES)

    def download() -> Mapping[str, Tensor]:
        if not timm.is_model_pretrained(name):
            raise PretrainedError("timm has no weights for it; set model.pretrained_path to a file that holds some")
        return timm.create_model(name, pretrained=True, num_classes=NUM_CLASSES).state_dict()

    return Source(
        model=model,
        convert=from_timm,
        classifier="head",
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
        download=download,
    )


def _in_torchvision(name: str) -> Source:
    from torchvision import models

    weights_of = {name: models.get_model_weights(name) for name in models.list_models(include="vit_*")}
    tagged = [f"{name}.{weights.name}" for name, known in weights_of.items() for weights in known]
    _check_known(name, [*weights_of, *tagged], "torchvision")
    architecture, _, tag = name.partition(".")
    weights = weights_of[architecture][tag or "DEFAULT"]
    model: Any = models.get_model(architecture, image_size=weights.meta["min_size"][0], num_classes=NUM_CLASSES)
    # torchvision starts classifiers at zero, and of two that always say zero one cannot tell whether they are the same.
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    transforms = weights.transforms()
    return Source(
        model=model,
        convert=from_torchvision,
        classifier="heads.head",
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        download=lambda: weights.get_state_dict(progress=False, check_hash=True),
    )


def _check_known(name: str, names: Sequence[str], library: str) -> None:
    if name not in names:
        nearest = get_close_matches(name, names, n=3) or names[:3]
        raise PretrainedError(
            f"{library} has no such model; the nearest are {', '.join(f'{library}/{near}' for near in nearest)}"
        )
