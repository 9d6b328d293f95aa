"""What all conversions of other libraries' ViTs share: names of weights, what has no place, and a check by example."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitprune.errors import PretrainedError
from vitprune.model.vit import NORM_EPS, ViT, ViTConfig

TOLERANCE = 1e-3
"""By how much of the largest logit a converted model's logits may be off: more than rounding, less than any feature."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The modules of another library's ViT and ours.

    ``layer`` matches a weight of a layer; its groups are the layer's number, the module in it, and weight or bias.
    ``in_layer`` maps those modules, ``outside`` the others.
    """

    layer: re.Pattern[str]
    in_layer: Mapping[str, str]
    outside: Mapping[str, str]

    def rename(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights under our names. Raises PretrainedError if some have no counterpart."""
        renamed = {self._ours(name): tensor for name, tensor in weights.items()}
        if None in renamed:
            strange = [name for name in weights if self._ours(name) is None]
            more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
            refuse([f"the weights {', '.join(strange[:3])}{more}"])
        return {name: tensor for name, tensor in renamed.items() if name is not None}

    def _ours(self, name: str) -> str | None:
        if match := self.layer.fullmatch(name):
            number, module, kind = match.groups()
            return f"blocks.{number}.{self.in_layer[module]}.{kind}" if module in self.in_layer else None
        module, _, kind = name.rpartition(".")
        return f"{self.outside[module]}.{kind}" if module in self.outside else None


def refuse(features: Iterable[str]) -> None:
    """Raise PretrainedError that names the features, if there are any."""
    if named := list(dict.fromkeys(features)):
        raise PretrainedError(
            f"vitprune's ViT has no place for {', '.join(named)}; choose a plain ViT, such as timm/vit_tiny_patch16_224"
        )


def strange_norms(model: nn.Module) -> Iterator[str]:
    """What sets layer norms anywhere in a model apart from ours."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.eps != NORM_EPS:
            yield f"layer norms with an epsilon of {module.eps:g} (instead of {NORM_EPS:g})"


def is_gelu(activation: nn.Module) -> bool:
    """Whether a module is the exact GELU, whatever its class; its approximations are off by 5e-4 and more."""
    x = torch.linspace(-4, 4, 33)
    return torch.allclose(activation(x), F.gelu(x), atol=1e-5)


def convert(original: nn.Module, config: ViTConfig, weights: Mapping[str, Tensor]) -> ViT:
    """A ViT with ``weights`` under our names, in float32 on the CPU and in evaluation mode; missing biases are zero.

    Raises PretrainedError if the weights do not fit ``config``, or if the ViT does not compute what ``original`` does.
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
    """Compare both on an image of noise: what a list of known features misses shows here."""
    size, channels = model.config.image_size, model.config.in_channels
    images = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = copy.deepcopy(original).float().cpu().eval()(images)
        logits = model(images)
    # NaN is never close to anything.
    if not bool((logits - expected).abs().max() <= TOLERANCE * expected.abs().max()):
        raise PretrainedError(
            f"a ViT with its weights answers otherwise (logits off by {(logits - expected).abs().max():.2g}): it "
            "computes something that vitprune does not know, or its weights are not finite; choose a plain ViT"
        )
