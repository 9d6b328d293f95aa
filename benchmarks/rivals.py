"""What someone would use instead of ``prune.target_speedup``: other ways to choose what goes.

A ranking gives each head and each group of neurons a score; what scores least goes first, and what it gave on average
goes into biases as in our own compact models. Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) narrows the stream as
well, so that its models need a form of their own, ``PlainViT``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from vitprune.circuit import Ablation, Graph, discover
from vitprune.core.model import ViT
from vitprune.pruning import cut
from vitprune.pruning.compact import Survivors
from vitprune.pruning.fold import Fold
from vitprune.pruning.latency import LatencyTable
from vitprune.pruning.partial_model import PartialModel, Unit

# Magnitude, random and attribution: an order of units -------------------------------------------------------------


def magnitude_scores(model: ViT, units: list[Unit]) -> Tensor:
    """Root mean square of the weights of a unit, against that of its kind: heads and neurons are of other sizes."""
    scores = []
    for unit in units:
        block, members = model.blocks[unit.sublayer // 2], torch.tensor(unit.members)
        if unit.sublayer % 2:
            weights = [block.mlp.hidden.weight[members], block.mlp.out.weight[:, members]]
        else:
            heads = block.attention.num_heads
            weights = [
                rearrange(block.attention.qkv.weight, "(qkv h k) d -> h qkv k d", qkv=3, h=heads)[members],
                rearrange(block.attention.out.weight, "d (h k) -> h d k", h=heads)[members],
            ]
        scores.append(torch.cat([weight.flatten() for weight in weights]).square().mean().sqrt())
    found, is_mlp = torch.stack(scores).detach(), torch.tensor([bool(unit.sublayer % 2) for unit in units])
    for kind in (is_mlp, ~is_mlp):
        found[kind] /= found[kind].mean()
    return found


def random_scores(units: list[Unit], seed: int) -> Tensor:
    return torch.rand(len(units), generator=torch.Generator().manual_seed(seed))


def eap_scores(
    model: ViT, units: list[Unit], images: Tensor, labels: Tensor, ablation: Ablation, group_size: int
) -> Tensor:
    """Edge attribution patching: the sum over a unit's outgoing edges, which is its own attribution."""
    graph = Graph.of(model, split_qkv=False, mlp_groups=model.config.d_mlp // group_size)
    found = discover(model, images, "eap", labels=labels, graph=graph, ablation=ablation, num_edges=1)
    outgoing = found.scores.nan_to_num().sum(dim=0).abs().tolist()
    totals = dict(zip((sender.name for sender in graph.senders), outgoing, strict=True))
    return torch.tensor([totals[unit.name] for unit in units])


def by_ranking(
    model: ViT, ablation: Ablation, units: list[Unit], scores: Tensor, table: LatencyTable
) -> list[Callable[[], ViT]]:
    """Compact models with ever more units gone, those first whose score is least for the milliseconds they cost."""
    config = model.config
    saved = []
    for unit in units:
        kind = "mlp" if unit.sublayer % 2 else "attention"
        width = config.d_mlp if unit.sublayer % 2 else config.num_heads
        curve = table.curve(kind, is_short=unit.sublayer // 2 >= config.first_short_layer)
        saved.append(max(curve.saving(width, len(unit.members)), 1e-6))
    order = torch.argsort(scores / torch.tensor(saved), stable=True).tolist()
    return [
        lambda gone=order[:count]: _without(model, ablation, [units[i] for i in gone]) for count in range(len(order))
    ]


def _without(model: ViT, ablation: Ablation, gone: list[Unit]) -> ViT:
    lost = {place: set() for place in range(2 * model.config.num_layers)}
    for unit in gone:
        lost[unit.sublayer].update(unit.members)
    kept = [
        torch.tensor([i for i in range(count) if i not in lost[place]], dtype=torch.long)
        for place, count in enumerate([model.config.num_heads, model.config.d_mlp] * model.config.num_layers)
    ]
    return cut(model, Survivors(heads=tuple(kept[0::2]), neurons=tuple(kept[1::2])), Fold.mean(ablation, model))


def heads_and_groups(model: ViT, images: Tensor, ablation: Ablation, group_size: int) -> list[Unit]:
    return PartialModel(model, images[:2], Fold.mean(ablation, model)).units(group_size)


# Torch-Pruning ----------------------------------------------------------------------------------------------------


class PlainViT(nn.Module):
    """The function of a ViT of ours, in a form whose stream can be narrowed; it, too, ends on the class token alone.

    ``is_traced`` computes all tokens everywhere, in operations that Torch-Pruning can follow.
    """

    def __init__(self, model: ViT) -> None:
        super().__init__()
        model = copy.deepcopy(model)
        self.config, self.is_traced = model.config, False
        self.patches, self.class_token, self.positions = model.patches, model.class_token, model.positions
        self.blocks = nn.ModuleList(_PlainBlock(block) for block in model.blocks)
        self.norm, self.classifier = model.norm, model.classifier

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        tokens = torch.cat([repeat(self.class_token, "d -> b 1 d", b=len(images)), tokens], dim=1)
        stream = tokens + self.positions
        for layer, block in enumerate(self.blocks):
            is_short = not self.is_traced and layer == len(self.blocks) - 1
            stream = block(stream, 1 if is_short else None, self.is_traced)
        return self.classifier(self.norm(stream[:, 0]))


class _PlainBlock(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.d_head = block.attention.qkv.out_features // 3 // block.attention.num_heads
        self.drop_path = block.drop_path
        self.norm1, self.norm2 = block.attention.norm, block.mlp.norm
        self.qkv, self.hidden = block.attention.qkv, block.mlp.hidden
        self.out, self.out2 = _linear(block.attention.out), _linear(block.mlp.out)

    def forward(self, stream: Tensor, tokens: int | None, is_traced: bool) -> Tensor:
        read = self.norm1(stream)
        if tokens is None:
            b, t, _ = read.shape
            q, k, v = self.qkv(read).reshape(b, t, 3, -1, self.d_head).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            width = self.qkv.out_features // 3
            queries, others = self.qkv.weight.split([width, 2 * width])
            query_bias, other_bias = self.qkv.bias.split([width, 2 * width])
            q = rearrange(F.linear(read[:, :tokens], queries, query_bias), "b t (h k) -> b h t k", k=self.d_head)
            kv = F.linear(read, others, other_bias)
            k, v = rearrange(kv, "b t (kv h k) -> kv b h t k", kv=2, k=self.d_head)
        if is_traced:
            gathered = (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            gathered = F.scaled_dot_product_attention(q, k, v)
        written = self.out(gathered.transpose(1, 2).reshape(len(stream), -1, self.out.in_features))
        stream = stream[:, :tokens] + self._dropped(written)
        return stream + self._dropped(self.out2(F.gelu(self.hidden(self.norm2(stream)))))

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return x
        keep = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
        return x * keep.to(x.dtype) / (1 - self.drop_path)


def _linear(to_stream: nn.Module) -> nn.Linear:
    linear = nn.Linear(to_stream.weight.shape[1], to_stream.weight.shape[0])
    linear.load_state_dict(to_stream.state_dict())
    return linear


def by_torch_pruning(model: ViT, images: Tensor, labels: Tensor, ratios: list[float]) -> list[Callable[[], PlainViT]]:
    """Models at each pruning ratio: global and isomorphic (Fang et al. 2024, arXiv 2407.04616), first-order Taylor
    importance of ``images``, whole heads and widths alike, in multiples of eight."""
    return [lambda ratio=ratio: _torch_pruned(model, images, labels, ratio) for ratio in ratios]


def _torch_pruned(model: ViT, images: Tensor, labels: Tensor, ratio: float) -> PlainViT:
    import torch_pruning

    plain = PlainViT(model).eval()
    if not ratio:
        return plain
    plain.is_traced = True
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    heads = {block.qkv: model.config.num_heads for block in plain.blocks}
    pruner = torch_pruning.pruner.BasePruner(
        plain,
        images[:1],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        isomorphic=True,
        pruning_ratio=ratio,
        head_pruning_ratio=ratio,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=[plain.classifier],
        unwrapped_parameters=[(plain.class_token, 0), (plain.positions, 1)],
        round_to=8,
    )
    F.cross_entropy(plain(images), labels).backward()
    pruner.step()
    plain.zero_grad(set_to_none=True)
    plain.is_traced = False
    return plain.eval()


def scratch(small: ViT, seed: int) -> ViT:
    """The shape of a compact model, its weights drawn anew."""
    model = ViT(replace(small.config, token_biases=False))
    model.initialise(torch.Generator().manual_seed(seed))
    return model
