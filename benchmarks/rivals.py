"""What someone would use instead of ``prune.target_speedup``: other ways to choose what goes.

A ranking gives each head and each group of neurons a score. What scores least for its milliseconds goes first, and
what it gave on average goes into biases, as in our own compact models. Two rivals have more than a ranking. After CORP
(arXiv 2602.05243), units are ranked by the energy of what they write, and the affine fold makes up for them. After Kwon
et al. 2022 (arXiv 2204.09656), they are ranked by the Fisher information of their masks, and the masks of the rest are
tuned by least squares. Both are written anew here, for the same units and times as ours. Torch-Pruning (Fang et al.
2023, arXiv 2301.12900) narrows the stream as well, so that its models need a form of their own, ``PlainViT``.
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
from vitprune.pruning.fold import Fold, moments_of
from vitprune.pruning.latency import LatencyTable
from vitprune.pruning.partial_model import PartialModel, Unit

# Rankings of units -------------------------------------------------------------


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


def energy_scores(model: ViT, units: list[Unit], images: Tensor) -> Tensor:
    """The mean square of what a unit writes around its mean, summed over the stream."""
    moments = moments_of(model, images)
    scores = []
    for unit in units:
        of, sublayer = moments[unit.sublayer], _sublayer(model, unit.sublayer)
        columns = _columns(sublayer, torch.tensor(unit.members))
        weight = sublayer.out.weight.detach()[:, columns].to(of.all_tokens)
        scores.append(((weight @ of.all_tokens[columns[:, None], columns]) * weight).sum())
    return torch.stack(scores).float()


def fisher_scores(model: ViT, units: list[Unit], images: Tensor, labels: Tensor) -> Tensor:
    """The sum over the images of the squared derivative of each one's loss by a mask on the unit."""
    written: dict[int, Tensor] = {}
    hooks = []
    for index in range(2 * model.config.num_layers):
        sublayer = _sublayer(model, index)
        hooks.append(
            sublayer.out.register_forward_pre_hook(lambda _, inputs, index=index: written.update({index: inputs[0]}))
        )
    model = model.requires_grad_(True)
    with torch.enable_grad():
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        gradients = dict(zip(written, torch.autograd.grad(loss, list(written.values())), strict=True))
    model.requires_grad_(False)
    for hook in hooks:
        hook.remove()
    scores = []
    for unit in units:
        columns = _columns(_sublayer(model, unit.sublayer), torch.tensor(unit.members))
        slope = (written[unit.sublayer].detach() * gradients[unit.sublayer])[:, :, columns].sum(dim=(1, 2))
        scores.append(slope.square().sum())
    return torch.stack(scores)


def _sublayer(model: ViT, index: int) -> nn.Module:
    block = model.blocks[index // 2]
    return block.mlp if index % 2 else block.attention


def _columns(sublayer: nn.Module, members: Tensor) -> Tensor:
    """The columns of the output map that heads or neurons write by."""
    width = sublayer.out.weight.shape[1] // getattr(sublayer, "num_heads", sublayer.out.weight.shape[1])
    return (members[:, None] * width + torch.arange(width)).flatten()


@torch.no_grad()
def mask_tuned(small: ViT, model: ViT, images: Tensor, ridge: float = 1e-3) -> ViT:
    """``small`` with a factor on each head and each neuron that is left, fitted sublayer by sublayer.

    The factors bring the stream after the sublayer as close as possible to that of the whole model, on the tokens that
    ``small`` computes; a ridge penalty draws them towards one.
    """
    small = copy.deepcopy(small).eval()
    ours, whole = small.embed(images), model.embed(images)
    seen: list[Tensor] = []
    for index in range(2 * model.config.num_layers):
        tokens = 1 if index // 2 >= small.config.first_short_layer else None
        whole = whole + _sublayer(model, index)(whole)
        sublayer = _sublayer(small, index)
        if sublayer is None:
            ours = ours[:, :tokens]
            continue
        read = (ours, tokens) if index % 2 == 0 else (ours[:, :tokens],)
        hook = sublayer.out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        wanted = whole[:, :tokens] - ours[:, :tokens] - (sublayer(*read) - _linear_part(sublayer, seen))
        hook.remove()
        inner, weight = seen.pop().double(), sublayer.out.weight.double()
        inner = inner[:, : wanted.shape[1]]
        width = len(_columns(sublayer, torch.tensor([0])))
        products = torch.einsum("btm,btn->mn", inner, inner) * (weight.T @ weight)
        right = torch.einsum("btm,btd,dm->m", inner, wanted.double(), weight)
        products = rearrange(products, "(u i) (v j) -> u v i j", i=width, j=width).sum(dim=(2, 3))
        right = rearrange(right, "(u i) -> u i", i=width).sum(dim=1)
        penalty = ridge * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype)
        factors = 1 + torch.linalg.solve(products + penalty, right - products.sum(dim=1))
        sublayer.out.weight.mul_(factors.repeat_interleave(width).to(sublayer.out.weight))
        ours = ours[:, :tokens] + sublayer(*read)
    return small


def _linear_part(sublayer: nn.Module, seen: list[Tensor]) -> Tensor:
    """What the last forward pass of the output map wrote, without its bias."""
    return seen[-1] @ sublayer.out.weight.T


def by_ranking(
    model: ViT, fold: Fold, units: list[Unit], scores: Tensor, table: LatencyTable
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
    return [lambda gone=order[:count]: _without(model, fold, [units[i] for i in gone]) for count in range(len(order))]


def _without(model: ViT, fold: Fold, gone: list[Unit]) -> ViT:
    lost = {place: set() for place in range(2 * model.config.num_layers)}
    for unit in gone:
        lost[unit.sublayer].update(unit.members)
    kept = [
        torch.tensor([i for i in range(count) if i not in lost[place]], dtype=torch.long)
        for place, count in enumerate([model.config.num_heads, model.config.d_mlp] * model.config.num_layers)
    ]
    return cut(model, Survivors(heads=tuple(kept[0::2]), neurons=tuple(kept[1::2])), fold)


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
