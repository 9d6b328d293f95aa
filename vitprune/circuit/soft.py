"""A circuit's forward pass that one can differentiate: by what receivers read, or by how much of an edge is kept.

Legend of dimensions: b images, t tokens, d width of the stream, r receivers of a level, s senders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vitprune.circuit.levels import Levels, MlpLevel, centred
from vitprune.circuit.masked import read_streams
from vitprune.core.model.vit import NORM_EPS

Rule = Callable[[Tensor], Tensor]


def exact(x: Tensor) -> Tensor:
    """The value, through which gradients pass."""
    return x


def constant(x: Tensor) -> Tensor:
    """The value, taken for a constant by gradients."""
    return x.detach()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What gradients take for constant: a norm's factor, attention patterns, and GELU's ratio of output to input.

    ``ratio`` None stands for GELU's own derivative.
    """

    factor: Rule = exact
    pattern: Rule = exact
    ratio: Rule | None = None


def run_soft(
    levels: Levels,
    embedding: Tensor,
    removed_writes: Tensor,
    keep: Tensor,
    *,
    rules: Rules | None = None,
    reads: dict[int, Tensor] | None = None,
) -> Tensor:
    """Logits ``(b, classes)`` of a circuit that keeps a share of each edge, ``keep (receivers, senders)`` from 0 to 1.

    The rest of an edge carries ``removed_writes (s, b or 1, t, d)``. ``embedding (b, t, d)`` is centred. ``reads``, if
    given, gets what the receivers of each level read, ``(r, b, t, d)``.
    """
    graph, rules = levels.graph, rules or Rules()
    written = [embedding[None]]
    for level in range(1, graph.last_level + 1):
        rows, tokens = graph.level_receivers[level], levels.reads_tokens(level, "")
        if not rows:
            continue
        writes = torch.cat([nodes[:, :, :tokens] for nodes in written])
        streams = read_streams(levels, level, keep[rows.start : rows.stop], writes, removed_writes, tokens)
        if reads is not None:
            reads[level] = streams
        if level == graph.last_level:
            return _classify(levels, streams[0], rules)
        written.append(levels.send(level, _activate(levels, level, _project(levels, level, streams, rules), rules)))
    raise AssertionError("the last level has a receiver")


def _factor(streams: Tensor, rules: Rules) -> Tensor:
    return rules.factor((streams.square().mean(dim=-1, keepdim=True) + NORM_EPS).rsqrt())


def _project(levels: Levels, level: int, streams: Tensor, rules: Rules) -> Tensor:
    part = levels[level]
    normed = streams * _factor(streams, rules)
    projected = torch.bmm(rearrange(normed, "r b t d -> r (b t) d"), part.in_weight) + part.in_bias
    return projected.view(*streams.shape[:3], -1)


def _activate(levels: Levels, level: int, projections: Tensor, rules: Rules) -> Tensor:
    part = levels[level]
    if isinstance(part, MlpLevel):
        if rules.ratio is None:
            return F.gelu(projections)
        # GELU(x) / x is the normal distribution function of x.
        return projections * rules.ratio(0.5 * (1 + torch.erf(projections / math.sqrt(2))))
    if part.split:
        queries, keys, values = rearrange(projections, "(h qkv) b t k -> qkv h b t k", qkv=3)
    else:
        queries, keys, values = projections.chunk(3, dim=-1)
    queries = queries[:, :, :1] if level == levels.class_token_from else queries
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    return rules.pattern(scores.softmax(dim=-1)) @ values


def _classify(levels: Levels, stream: Tensor, rules: Rules) -> Tensor:
    model = levels.model
    read = centred(stream)
    normed = read * _factor(read, rules) * model.norm.weight + model.norm.bias
    return model.classifier(normed.mean(dim=1) if model.config.pooling == "mean" else normed[:, 0])
