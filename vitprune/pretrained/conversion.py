"""What conversions from all libraries share: names of weights, unsupported features, and a check of the logits."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitprune.core.model.vit import NORM_EPS, ViT, ViTConfig
from vitprune.errors import PretrainedError

TOLERANCE = 1e-3
"""Largest allowed error of a converted model's logits, relative to the largest logit.

It is above what rounding does, and below what any unsupported feature does.
"""
NUM_CLASSES = 1
"""Classes of a model to convert. Its classifier is replaced; timm loads no pretrained one if the size differs."""


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A model of another library, with random weights, and what is known about its pretrained weights.

    ``classifier`` is the name of its last module. ``mean`` and ``std`` normalise each channel of pixels from 0 to 1.
    ``download`` gets the weights, under the library's names, from its hub or from the hub's cache on this machine.
    """

    model: nn.Module
    convert: Callable[[nn.Module], ViT]
    classifier: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    download: Callable[[], Mapping[str, Tensor]]


def check_known(name: str, known: Sequence[str], library: str) -> None:
    """Raise PretrainedError with the nearest known names if ``name`` is not known."""
    if name not in known:
        nearest = get_close_matches(name, known, n=3) or known[:3]
        raise PretrainedError(
            f"{library} has no such model; the nearest are {', '.join(f'{library}/{near}' for near in nearest)}"
        )


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the modules of another library's ViT map to ours.

    ``layer`` matches a weight of a layer; its groups are the number of the layer, the module, and weight or bias.
    ``in_layer`` maps modules of a layer, and ``outside`` maps all others.
    """

    layer: re.Pattern[str]
    in_layer: Mapping[str, str]
    outside: Mapping[str, str]

    def rename(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights under our names. Raises PretrainedError if a weight has no counterpart."""
        ours = {name: self._ours(name) for name in weights}
        unknown = [name for name, our_name in ours.items() if our_name is None]
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            refuse([f"the weights {', '.join(unknown[:3])}{more}"])
        return {our_name: weights[name] for name, our_name in ours.items() if our_name is not None}

    def _ours(self, name: str) -> str | None:
        if match := self.layer.fullmatch(name):
            number, module, kind = match.groups()
            return f"blocks.{number}.{self.in_layer[module]}.{kind}" if module in self.in_layer else None
        module, _, kind = name.rpartition(".")
        return f"{self.outside[module]}.{kind}" if module in self.outside else None


def refuse(features: Iterable[str]) -> None:
    """Raise PretrainedError that lists the unsupported features, if there are any."""
    if named := list(dict.fromkeys(features)):
        raise PretrainedError(
            f"vitprune's ViT does not support {', '.join(named)}; choose a plain ViT, such as timm/vit_tiny_patch16_224"
        )


def unsupported_norms(model: nn.Module) -> Iterator[str]:
    """Name the layer norms of a model that differ from ours."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.eps != NORM_EPS:
            yield f"layer norms with an epsilon of {module.eps:g} (instead of {NORM_EPS:g})"


def is_gelu(activation: nn.Module) -> bool:
    """Whether a module computes the exact GELU, whatever its class; approximations are off by at least 5e-4."""
    x = torch.linspace(-4, 4, 33)
    return torch.allclose(activation(x), F.gelu(x), atol=1e-5)


def convert(original: nn.Module, config: ViTConfig, weights: Mapping[str, Tensor]) -> ViT:
    """A ViT with ``weights``, under our names, in float32, on the CPU and in evaluation mode. Missing biases are zero.

    Raises PretrainedError if the weights do not fit ``config``, or if the logits differ from those of ``original``.
    """
    model = ViT(config).eval()
    no_biases = {name: torch.zeros_like(w) for name, w in model.state_dict().items() if name.endswith(".bias")}
    try:
        model.load_state_dict(no_biases | dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(f"its weights are not those of a ViT with layers of one shape ({reason})") from None
    _check_same_logits(original, model)
    return model


def _check_same_logits(original: nn.Module, model: ViT) -> None:
    """Compare both models on an image of noise, which reveals features that the checks by name miss."""
    size, channels = model.config.image_size, model.config.in_channels
    images = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = copy.deepcopy(original).float().cpu().eval()(images)
        logits = model(images)
    error = (logits - expected).abs().max()
    # Not ``error > …``, which is False for NaN.
    if not bool(error <= TOLERANCE * expected.abs().max()):
        raise PretrainedError(
            f"its logits differ from those of a ViT with its weights (by {error:.2g}): it computes something that "
            "vitprune does not support, or its weights are not finite; choose a plain ViT"
        )
