"""The shape of a ViT, and whether its sizes fit together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, get_args

from pydantic import ConfigDict

from vitprune.core.model.embedding import SHIFTED_COPIES, PatchEmbedding
from vitprune.errors import ConfigError

Positions = Literal["learned", "sincos"]
Pooling = Literal["class", "mean"]

MAX_LAYERS = 1000
"""More would take minutes to build, and no ViT has as many."""


class Shape(Protocol):
    """The sizes that a model's config and the params of section ``model`` have in common."""

    @property
    def patch_size(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def positions(self) -> Positions: ...
    @property
    def patch_embedding(self) -> PatchEmbedding: ...


def shape_fault(shape: Shape, section: str = "") -> str | None:
    """Why sizes do not fit together, or None if they do; ``section`` precedes their names, as in ``model.``."""
    if shape.d_model % shape.num_heads:
        return (
            f"{section}d_model ({shape.d_model}) is not divisible by {section}num_heads ({shape.num_heads}): "
            "every head gets an equal part of the width"
        )
    if shape.positions == "sincos" and shape.d_model % 4:
        return (
            f"{section}d_model ({shape.d_model}) is not divisible by 4, as {section}positions sincos need it: half of "
            "it is for rows and half for columns, each in sines and cosines"
        )
    if shape.patch_embedding == "shifted" and shape.patch_size == 1:
        return f"{section}patch_size 1 has no half to shift by: {section}patch_embedding shifted needs at least 2"
    return None


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a ViT.

    ``num_heads`` and ``d_mlp`` describe an unpruned layer. ``heads_per_layer`` and ``neurons_per_layer`` give the
    numbers of each layer where those differ. With ``token_biases`` every bias that is added to the stream has one row
    per token, so that it can take up what removed parts gave on average at each position.

    ``positions`` are trained (``learned``) or fixed sines and cosines (``sincos``). With ``pooling`` ``class`` the
    classifier reads the norm of the class token; with ``mean`` there is no class token, and it reads the mean over the
    normed patches (Beyer et al. 2022, arXiv 2205.01580).

    Raises ConfigError if the sizes do not fit together.
    """

    # Pydantic checks with it what is read from a file.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    image_size: int
    patch_size: int
    in_channels: int
    num_classes: int
    d_model: int
    num_layers: int
    num_heads: int
    d_mlp: int
    patch_embedding: PatchEmbedding = "linear"
    positions: Positions = "learned"
    pooling: Pooling = "class"
    dropout: float = 0.0
    drop_path: float = 0.0
    heads_per_layer: tuple[int, ...] | None = None
    neurons_per_layer: tuple[int, ...] | None = None
    token_biases: bool = False

    def __post_init__(self) -> None:
        self._check_values()
        if fault := shape_fault(self):
            raise ConfigError(fault)
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size ({self.image_size}) is not divisible by patch_size ({self.patch_size})")
        for name, counts, most in (
            ("heads_per_layer", self.heads_per_layer, self.num_heads),
            ("neurons_per_layer", self.neurons_per_layer, self.d_mlp),
        ):
            if counts is None:
                continue
            # JSON brings lists; a frozen config holds tuples.
            object.__setattr__(self, name, tuple(counts))
            if len(counts) != self.num_layers or not all(0 <= count <= most for count in counts):
                raise ConfigError(f"{name} needs {self.num_layers} counts from 0 to {most}, got {list(counts)}")

    def _check_values(self) -> None:
        sizes = (
            "image_size",
            "patch_size",
            "in_channels",
            "num_classes",
            "d_model",
            "num_layers",
            "num_heads",
            "d_mlp",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_layers > MAX_LAYERS:
            raise ConfigError(f"num_layers must be at most {MAX_LAYERS}, got {self.num_layers}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        for name, choices in (("patch_embedding", PatchEmbedding), ("positions", Positions), ("pooling", Pooling)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")

    @property
    def unpruned(self) -> ViTConfig:
        """The shape before any pruning."""
        return replace(self, heads_per_layer=None, neurons_per_layer=None, token_biases=False)

    @property
    def num_patches(self) -> int:
        """Patches of an image, which is square."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Patches, and the class token if there is one."""
        return self.num_patches + (self.pooling == "class")

    @property
    def patch_values(self) -> int:
        """How many numbers the embedding maps to a token."""
        copies = SHIFTED_COPIES if self.patch_embedding == "shifted" else 1
        return copies * self.in_channels * self.patch_size**2

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    @property
    def num_matrix_entries(self) -> int:
        """Numbers in the weight matrices, the positions and the biases of tokens: nearly all that the model holds."""
        heads, neurons = sum(self.layer_heads), sum(self.layer_neurons)
        sublayers = sum(map(bool, (*self.layer_heads, *self.layer_neurons)))
        rows = self.patch_values + self.num_tokens + 4 * heads * self.d_head + 2 * neurons + self.num_classes
        return self.d_model * (rows + self.num_tokens * sublayers * self.token_biases)

    @property
    def first_short_layer(self) -> int:
        """The layer of the last attention: from it on only the class token is read, apart from its keys and values.

        The number of layers if there is no class token.
        """
        if self.pooling != "class":
            return self.num_layers
        return max((layer for layer, heads in enumerate(self.layer_heads) if heads), default=0)

    @property
    def layer_heads(self) -> tuple[int, ...]:
        """Number of heads in each layer."""
        return self.heads_per_layer or (self.num_heads,) * self.num_layers

    @property
    def layer_neurons(self) -> tuple[int, ...]:
        """Number of MLP neurons in each layer."""
        return self.neurons_per_layer or (self.d_mlp,) * self.num_layers
