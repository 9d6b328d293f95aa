"""A pre-norm Vision Transformer whose layers may differ in their number of heads and neurons.

Legend of dimensions:
    b  images in the batch    c  channels    d  d_model, width of the residual stream
    t  tokens (class token first, if there is one, then patches row by row)
    h  heads of the layer     k  d_head, width of a head    n  neurons of the layer's MLP

The stream starts as patches + class token + positions. Each attention and MLP sublayer reads a layer norm of it and
adds to it. The classifier reads the final norm of the class token or, without one, the mean of the normed patches. A
sublayer without heads or neurons does not exist, and neither does its norm: that is what pruning leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from vitprune.core.model.config import ViTConfig
from vitprune.core.model.embedding import EMBEDDINGS, sincos_positions

NORM_EPS = 1e-6

Intermediate = Literal["attention_input", "qkv", "heads", "mlp_input", "hidden", "neurons", "stream"]
"""What a tap sees of each layer, in this order.

``attention_input (b, t, d)``: the stream before the norm. ``qkv (b, t, 3 h k)``: queries, keys and values.
``heads (b, h, t, k)``: what each head gathers, before the output projection. ``mlp_input (b, t, d)``: the stream before
the norm. ``hidden (b, t, n)``: neurons before the GELU. ``neurons (b, t, n)``: neurons after it. ``stream (b, t, d)``:
the stream after the layer.
"""
Tap = Callable[[int, Intermediate, Tensor], None]
"""Called with the layer, the kind of intermediate and its value."""
LayerTap = Callable[[Intermediate, Tensor], None]


class Record(dict[tuple[int, Intermediate], Tensor]):
    """A tap that records the given kinds of intermediates by layer and kind: ``record[0, "heads"]``."""

    def __init__(self, *kinds: Intermediate) -> None:
        super().__init__()
        self._kinds = kinds

    def __call__(self, layer: int, kind: Intermediate, value: Tensor) -> None:
        if kind in self._kinds:
            self[layer, kind] = value


def _ignore(kind: Intermediate, value: Tensor) -> None:
    """The tap of a layer that nobody watches."""


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

    def forward(self, stream: Tensor, tokens: int | None = None, tap: LayerTap = _ignore) -> Tensor:
        """What the attention adds to the stream, or to its first ``tokens``; a tap needs all tokens."""
        tap("attention_input", stream)
        read = self.norm(stream)
        if tokens is None:
            qkv = self.qkv(read)
            tap("qkv", qkv)
            q, k, v = rearrange(qkv, "b t (qkv h k) -> qkv b h t k", qkv=3, h=self.num_heads)
        else:
            width = self.qkv.out_features // 3
            queries, others = self.qkv.weight.split([width, 2 * width])
            query_bias, other_bias = self.qkv.bias.split([width, 2 * width])
            q = rearrange(F.linear(read[:, :tokens], queries, query_bias), "b t (h k) -> b h t k", h=self.num_heads)
            kv = F.linear(read, others, other_bias)
            k, v = rearrange(kv, "b t (kv h k) -> kv b h t k", kv=2, h=self.num_heads)
        gathered = F.scaled_dot_product_attention(q, k, v)
        tap("heads", gathered)
        return self.out(rearrange(gathered, "b h t k -> b t (h k)"))


class Mlp(nn.Module):
    """Layer norm and two linear layers with a GELU between them."""

    def __init__(self, config: ViTConfig, num_neurons: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model, eps=NORM_EPS)
        self.hidden = nn.Linear(config.d_model, num_neurons)
        self.out = ToStream(num_neurons, config)

    def forward(self, stream: Tensor, tap: LayerTap = _ignore) -> Tensor:
        """What the MLP adds to the stream."""
        tap("mlp_input", stream)
        hidden = self.hidden(self.norm(stream))
        tap("hidden", hidden)
        neurons = F.gelu(hidden)
        tap("neurons", neurons)
        return self.out(neurons)


def drop_rows(x: Tensor, probability: float) -> Tensor:
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): zero whole images of ``x (b, t, d)`` at random.

    The others are scaled up, so that the expectation stays. torchvision has the same function, but importing it takes
    longer than everything else that a model needs.
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

    def forward(self, stream: Tensor, tokens: int | None = None, tap: LayerTap = _ignore) -> Tensor:
        """Next state of the stream ``(b, t, d)``, or of its first ``tokens``; a tap needs all tokens."""
        if self.attention is not None:
            stream = stream[:, :tokens] + self._regularise(self.attention(stream, tokens, tap))
        stream = stream[:, :tokens]
        if self.mlp is not None:
            stream = stream + self._regularise(self.mlp(stream, tap))
        tap("stream", stream)
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

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(b, num_classes)`` for normalised ``images (b, c, height, width)``."""
        return self.run(self.embed(images))

    def run(self, stream: Tensor, tap: Tap | None = None) -> Tensor:
        """Logits ``(b, num_classes)`` from the first state of the stream, ``(b, t, d)``.

        ``tap`` is called with every intermediate of every layer, all tokens of it. Without a tap, the last layers
        compute the class token alone.
        """
        stream = self.dropout(stream)
        for layer, block in enumerate(self.blocks):
            if tap is not None:
                stream = block(stream, None, partial(tap, layer))
            else:
                stream = block(stream, 1 if layer >= self.config.first_short_layer else None)
        return self.classify(stream)
