"""A pre-norm Vision Transformer whose layers may differ in their number of heads and neurons.

Legend of dimensions:
    b  images in the batch    c  channels    d  d_model, width of the residual stream
    t  tokens (class token first, if there is one, then patches row by row)
    h  heads of the layer     k  d_head, width of a head    n  neurons of the layer's MLP

The stream starts as patches + class token + positions; each attention and MLP sublayer reads a layer norm of it and
adds to it; the classifier reads the final norm of the class token, or the mean of that of all patches where there is no
class token. A sublayer without heads or neurons is not there at all, nor is its norm: that is what pruning leaves
behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args, overload

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from vitprune.errors import ConfigError
from vitprune.model.patches import EMBEDDINGS, SHIFTED_COPIES, PatchEmbedding
from vitprune.model.positions import sincos_positions

NORM_EPS = 1e-6

Positions = Literal["learned", "sincos"]
Pooling = Literal["class", "mean"]


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a ViT.

    ``num_heads`` and ``d_mlp`` describe an unpruned layer. ``heads_per_layer`` and ``neurons_per_layer`` say what each
    layer really has, where that differs. ``token_biases`` gives every token a bias of its own wherever a bias is added
    to the stream, so that what removed parts gave on average at each position has a place to go.

    ``positions`` are trained, or sines and cosines that are not. ``pooling`` is what the classifier reads: the norm of
    the class token, or the mean over the normed patches, for which there is no class token (Beyer et al. 2022, arXiv
    2205.01580).

    Raises ConfigError if the sizes do not fit together.
    """

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
        for name in (
            "image_size",
            "patch_size",
            "in_channels",
            "num_classes",
            "d_model",
            "num_layers",
            "num_heads",
            "d_mlp",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size ({self.image_size}) is not divisible by patch_size ({self.patch_size})")
        if self.d_model % self.num_heads:
            raise ConfigError(f"d_model ({self.d_model}) is not divisible by num_heads ({self.num_heads})")
        for name, choices in (("patch_embedding", PatchEmbedding), ("positions", Positions), ("pooling", Pooling)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        if self.positions == "sincos" and self.d_model % 4:
            raise ConfigError(f"d_model ({self.d_model}) is not divisible by 4, as positions sincos need it")
        if self.patch_embedding == "shifted" and self.patch_size == 1:
            raise ConfigError("patch_size 1 has no half to shift by: patch_embedding shifted needs at least 2")
        for name, counts in (
            ("heads_per_layer", self.heads_per_layer),
            ("neurons_per_layer", self.neurons_per_layer),
        ):
            if counts is None:
                continue
            # JSON brings lists; a frozen config holds tuples.
            object.__setattr__(self, name, tuple(counts))
            if len(counts) != self.num_layers or min(counts) < 0:
                raise ConfigError(f"{name} needs {self.num_layers} counts of at least 0, got {list(counts)}")

    @property
    def num_patches(self) -> int:
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
    def first_short_layer(self) -> int:
        """From this layer on only the class token is read: that of the last attention, whose keys need all tokens.

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


class ToStream(nn.Module):
    """Linear map into the residual stream; its bias is ``(d,)``, or ``(t, d)`` with one row per token."""

    def __init__(self, in_features: int, config: ViTConfig) -> None:
        super().__init__()
        shape = (config.num_tokens, config.d_model) if config.token_biases else (config.d_model,)
        self.weight = nn.Parameter(torch.empty(config.d_model, in_features))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        if self.bias.ndim == 1:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight) + self.bias[: x.shape[1]]


class Attention(nn.Module):
    """Layer norm and multi-head self-attention over the stream ``(b, t, d)``."""

    def __init__(self, config: ViTConfig, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(config.d_model, eps=NORM_EPS)
        self.qkv = nn.Linear(config.d_model, 3 * num_heads * config.d_head)
        self.out = ToStream(num_heads * config.d_head, config)

    def heads(self, stream: Tensor, tokens: int | None = None) -> Tensor:
        """What each head gathers for the first ``tokens`` of all, ``(b, h, t, k)``, before the output projection."""
        read = self.norm(stream)
        if tokens is None:
            q, k, v = rearrange(self.qkv(read), "b t (qkv h k) -> qkv b h t k", qkv=3, h=self.num_heads)
        else:
            width = self.qkv.out_features // 3
            queries, others = self.qkv.weight.split([width, 2 * width])
            query_bias, other_bias = self.qkv.bias.split([width, 2 * width])
            q = rearrange(F.linear(read[:, :tokens], queries, query_bias), "b t (h k) -> b h t k", h=self.num_heads)
            kv = F.linear(read, others, other_bias)
            k, v = rearrange(kv, "b t (kv h k) -> kv b h t k", kv=2, h=self.num_heads)
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, stream: Tensor, tokens: int | None = None) -> Tensor:
        return self.out(rearrange(self.heads(stream, tokens), "b h t k -> b t (h k)"))

    def writes(self, stream: Tensor) -> Tensor:
        """What each head adds to the stream, ``(h, b, t, d)``, without the bias that belongs to no head."""
        weight = rearrange(self.out.weight, "d (h k) -> h k d", h=self.num_heads)
        return einsum(self.heads(stream), weight, "b h t k, h k d -> h b t d")


class Mlp(nn.Module):
    """Layer norm and two linear layers with a GELU between them."""

    def __init__(self, config: ViTConfig, num_neurons: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model, eps=NORM_EPS)
        self.hidden = nn.Linear(config.d_model, num_neurons)
        self.out = ToStream(num_neurons, config)

    def neurons(self, stream: Tensor) -> Tensor:
        """Activations of the hidden neurons, ``(b, t, n)``."""
        return F.gelu(self.hidden(self.norm(stream)))

    def forward(self, stream: Tensor) -> Tensor:
        return self.out(self.neurons(stream))

    def write(self, stream: Tensor) -> Tensor:
        """What the MLP adds to the stream, ``(b, t, d)``, without the bias that belongs to no node."""
        return F.linear(self.neurons(stream), self.out.weight)


def drop_rows(x: Tensor, probability: float) -> Tensor:
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): what is added for an image is zeroed as a whole.

    The rest is scaled up so that the expectation stays. torchvision has the same, but importing it takes longer than
    everything else that a model needs.
    """
    keep = torch.rand(len(x), 1, 1, device=x.device) >= probability
    return x * keep.to(x.dtype) / (1 - probability)


class Block(nn.Module):
    """Attention, then MLP, each reading the stream and adding to it; either may be missing."""

    def __init__(self, config: ViTConfig, num_heads: int, num_neurons: int, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(config, num_heads) if num_heads else None
        self.mlp = Mlp(config, num_neurons) if num_neurons else None
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = drop_path

    def forward(
        self,
        stream: Tensor,
        intermediates: dict[str, Tensor] | None = None,
        layer: int = 0,
        tokens: int | None = None,
    ) -> Tensor:
        """Next state of the stream ``(b, t, d)``, if asked for only the first ``tokens`` of it.

        What each node adds goes into ``intermediates``, if given.
        """
        if self.attention is not None:
            if intermediates is not None:
                for head, written in enumerate(self.attention.writes(stream)):
                    intermediates[f"a{layer}.h{head}"] = written
            stream = stream[:, :tokens] + self._regularise(self.attention(stream, tokens))
        stream = stream[:, :tokens]
        if self.mlp is not None:
            if intermediates is not None:
                intermediates[f"m{layer}"] = self.mlp.write(stream)
            stream = stream + self._regularise(self.mlp(stream))
        return stream

    def _regularise(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        return drop_rows(x, self.drop_path) if self.training and self.drop_path else x


class ViT(nn.Module):
    """Vision Transformer from normalised images ``(b, c, height, width)`` to logits ``(b, num_classes)``.

    ``positions (t, d)`` are a parameter or, if fixed, a buffer; ``class_token`` is None with mean pooling.
    """

    positions: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = EMBEDDINGS[config.patch_embedding](config.in_channels, config.patch_size, config.d_model)
        self.class_token = nn.Parameter(torch.zeros(config.d_model)) if config.pooling == "class" else None
        positions = torch.zeros(config.num_tokens, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Parameter(positions)
        else:
            self.register_buffer("positions", positions)
        self.dropout = nn.Dropout(config.dropout)
        # Stochastic depth grows linearly with depth.
        depth = max(config.num_layers - 1, 1)
        blocks = nn.ModuleList(
            Block(config, heads, neurons, config.drop_path * layer / depth)
            for layer, (heads, neurons) in enumerate(zip(config.layer_heads, config.layer_neurons, strict=True))
        )
        self.blocks = cast("Sequence[Block]", blocks)
        self.norm = nn.LayerNorm(config.d_model, eps=NORM_EPS)
        self.classifier = nn.Linear(config.d_model, config.num_classes)
        self.initialise()

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: truncated normal with standard deviation 0.02, biases zero, norms one.

        Fixed positions are written anew.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | ToStream):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02, generator=generator)
        if self.config.positions == "learned":
            nn.init.trunc_normal_(self.positions, std=0.02, generator=generator)
        else:
            table = sincos_positions(self.config.image_size // self.config.patch_size, self.config.d_model)
            # A class token is nowhere: its position is zero.
            self.positions.copy_(F.pad(table, (0, 0, self.config.num_tokens - len(table), 0)))

    def embed(self, images: Tensor) -> Tensor:
        """First state of the stream, ``(b, t, d)``: patches, class token and positions."""
        tokens = self.patches(images)
        if self.class_token is not None:
            tokens = torch.cat([repeat(self.class_token, "d -> b 1 d", b=images.shape[0]), tokens], dim=1)
        return tokens + self.positions

    def classify(self, stream: Tensor) -> Tensor:
        """Logits ``(b, num_classes)`` from the last state of the stream."""
        if self.config.pooling == "mean":
            return self.classifier(self.norm(stream).mean(dim=1))
        return self.classifier(self.norm(stream[:, 0]))

    @overload
    def forward(self, images: Tensor, *, return_intermediates: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, *, return_intermediates: Literal[True]) -> tuple[Tensor, dict[str, Tensor]]: ...

    def forward(
        self, images: Tensor, *, return_intermediates: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Logits, and on request what every node adds to the stream.

        The intermediates are named as the graph's nodes (``embed``, ``a0.h1``, ``m0``, …), each ``(b, t, d)``. Biases
        that are added to the stream belong to no node and are not among them.
        """
        embedding = self.embed(images)
        intermediates = {"embed": embedding} if return_intermediates else None
        stream = self.dropout(embedding)
        for layer, block in enumerate(self.blocks):
            is_short = intermediates is None and layer >= self.config.first_short_layer
            stream = block(stream, intermediates, layer, 1 if is_short else None)
        logits = self.classify(stream)
        return logits if intermediates is None else (logits, intermediates)
