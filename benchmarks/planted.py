"""Small ViTs built by hand, so that the edges of their true circuit are known before any search.

The stream is made of orthogonal directions, each with zero mean: one holds a constant a thousand times larger than
everything else, so that every layer norm divides by nearly the same and readers see the stream itself; others hold the
pixels of a patch, the number of a token, and what the planted parts write. Heads and neurons that are not planted read
random mixtures of all of these and write into directions that nothing planted reads.

Images have 2 × 2 patches of 2 × 2 pixels: a bit, a mark, and noise that only the distractors read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit import Ablation, Edge, Graph
from vitprune.core.model import ViT, ViTConfig

PIXELS = ("bit", "mark", "noise one", "noise two")
TOKENS = ("class", "patch 1", "patch 2", "patch 3", "patch 4")
RELAYS = ("first", "second", "third", "fourth")
NAMED = ("constant", *PIXELS, *TOKENS, *RELAYS, "answer")
WIDTH = 48
HEADS = 4
CONSTANT = 1000.0
LEAD = 4.0
"""By how much the logit of the right class leads."""
FOCUS = 10.0
"""By how much a planted head's attention logit of the token that it looks for leads."""
SHARPNESS = 32.0
IMAGES = 64

BASIS = torch.zeros(WIDTH // 2, WIDTH, dtype=torch.float64)
BASIS[torch.arange(WIDTH // 2), torch.arange(0, WIDTH, 2)] = math.sqrt(0.5)
BASIS[torch.arange(WIDTH // 2), torch.arange(1, WIDTH, 2)] = -math.sqrt(0.5)
JUNK = BASIS[len(NAMED) :]


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A model whose circuit on ``images`` is ``true_edges`` by construction; it answers ``labels``."""

    name: str
    model: ViT
    images: Tensor
    labels: Tensor
    graph: Graph
    ablation: Ablation
    true_edges: frozenset[Edge]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a circuit is planted in: layers, pooling, how much the distractors write, and the seed of it all.

    ``places`` says in which layers the planted parts are, the first of them for the first part.
    """

    layers: int = 2
    pooling: str = "class"
    noise: float = 1.0
    seed: int = 0
    places: tuple[int, ...] = (0, 1)
    name: str = field(default="")


def along(name: str) -> Tensor:
    """The unit vector of a named direction of the stream."""
    return BASIS[NAMED.index(name)]


def copy_head(ground: Ground) -> Planted:
    """A head looks for the marked patch, wherever it is, and copies its bit to the class token."""
    bed = Bed(ground)
    layer = ground.places[-1]
    bed.head(layer, 1, attention=[(None, "mark")], reads="bit", writes="answer")
    marked = torch.randint(4, (IMAGES,), generator=bed.generator)
    bed.pixels[torch.arange(IMAGES), marked, 1] = 1.0
    edges = [("embed", f"a{layer}.h1.k"), ("embed", f"a{layer}.h1.v"), (f"a{layer}.h1", "logits")]
    return bed.planted(labels=bed.pixels[torch.arange(IMAGES), marked, 0], true_edges=edges)


def and_paths(ground: Ground) -> Planted:
    """Two heads copy the bits of two patches, an MLP computes their AND; all four cases are as frequent."""
    bed = Bed(ground)
    edges = _plant_gate(bed, low=1.25, high=1.75)
    both = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0)).repeat(IMAGES // 4, 1)
    bed.pixels[:, :2, 0] = both.double()
    return bed.planted(labels=bed.pixels[:, :2, 0].amin(1), true_edges=edges)


def or_paths(ground: Ground) -> Planted:
    """As ``and_paths``, but OR, and on these images both bits are on or both are off: either path does for both.

    Removed edges carry the mean over the same images with all bits off: a path that is removed says "off".
    """
    bed = Bed(ground)
    edges = _plant_gate(bed, low=0.25, high=0.75)
    return _with_both_bits(bed, edges)


def backup_head(ground: Ground) -> Planted:
    """As ``or_paths``, but the second head, which does the same, is in the layer of the MLP: a backup for the first."""
    bed = Bed(ground)
    edges = _plant_gate(bed, low=0.25, high=0.75, second=ground.places[-1])
    return _with_both_bits(bed, edges)


def adder(ground: Ground) -> Planted:
    """Two heads of different layers each write half of the answer, which each of them alone leaves at a draw."""
    bed = Bed(ground)
    edges = []
    for layer, head in ((ground.places[0], 0), (ground.places[-1], 3)):
        bed.head(layer, head, attention=[(None, "patch 1")], reads="bit", writes="answer", scale=0.5)
        edges += [("embed", f"a{layer}.h{head}.v"), (f"a{layer}.h{head}", "logits")]
    return bed.planted(labels=bed.pixels[:, 0, 0], true_edges=edges)


def key_only_head(ground: Ground) -> Planted:
    """A head copies the bit of patch 1 or 2; which, it hears through its key from an earlier head.

    The mark is on patch 3 or on patch 4. In the earlier head patch 1 looks at patch 3 and patch 2 at patch 4, and
    copies the mark.
    """
    bed = Bed(ground)
    early, late = ground.places[0], ground.places[-1]
    pairs = [("patch 1", "patch 3"), ("patch 2", "patch 4")]
    bed.head(early, 1, attention=pairs, reads="mark", writes="first")
    bed.head(late, 2, attention=[(None, "first")], reads="bit", writes="answer")
    edges = [
        ("embed", f"a{early}.h1.v"),
        (f"a{early}.h1", f"a{late}.h2.k"),
        ("embed", f"a{late}.h2.v"),
        (f"a{late}.h2", "logits"),
    ]
    return bed.planted(labels=_mark_patch_three_or_four(bed), true_edges=edges)


def query_only_head(ground: Ground) -> Planted:
    """A head copies the bit of patch 1 or 2; which, its query asks for, as an earlier head told every token.

    Two earlier heads copy the marks of patches 3 and 4, one of which is on. Keys are the numbers of the patches.
    Removed edges carry what they do without marks.
    """
    bed = Bed(ground)
    early, late = ground.places[0], ground.places[-1]
    edges = [("embed", f"a{late}.h2.v"), (f"a{late}.h2", "logits")]
    for head, patch, relay in ((1, "patch 3", "first"), (3, "patch 4", "second")):
        bed.head(early, head, attention=[(None, patch)], reads="mark", writes=relay)
        edges += [("embed", f"a{early}.h{head}.v"), (f"a{early}.h{head}", f"a{late}.h2.q")]
    bed.head(late, 2, attention=[("first", "patch 1"), ("second", "patch 2")], reads="bit", writes="answer")
    unmarked = bed.pixels.clone()
    return bed.planted(labels=_mark_patch_three_or_four(bed), true_edges=edges, reference=unmarked)


def chain(ground: Ground) -> Planted:
    """A head copies the bit of patch 1, and one MLP after the other hands it on, from the first place to the last."""
    bed = Bed(ground)
    first, *others = ground.places
    bed.head(first, 2, attention=[(None, "patch 1")], reads="bit", writes=RELAYS[0])
    edges = [("embed", f"a{first}.h2.v")]
    sender, reads = f"a{first}.h2", RELAYS[0]
    for number, layer in enumerate(others, start=1):
        writes = RELAYS[number] if number < len(others) else "answer"
        bed.step(layer, reads=[reads], writes=writes, low=0.25, high=0.75)
        edges.append((sender, f"m{layer}"))
        sender, reads = f"m{layer}", writes
    return bed.planted(labels=bed.pixels[:, 0, 0], true_edges=[*edges, (sender, "logits")])


DEEP = {"layers": 4, "places": (1, 3)}
DESIGNS: dict[Callable[[Ground], Planted], tuple[dict, ...]] = {
    copy_head: ({}, DEEP, {"noise": 4.0}, {"pooling": "mean"}),
    and_paths: ({}, DEEP, {"noise": 4.0}, {"pooling": "mean"}),
    or_paths: ({}, DEEP, {"noise": 4.0}, {"pooling": "mean"}),
    backup_head: ({}, DEEP, {"pooling": "mean"}),
    adder: ({}, DEEP, {"noise": 4.0}),
    key_only_head: ({}, DEEP, {"noise": 4.0}),
    query_only_head: ({}, DEEP),
    chain: (
        {"layers": 3, "places": (0, 1, 2)},
        {"layers": 6, "places": (0, 1, 3, 5)},
        {"layers": 3, "places": (0, 1, 2), "pooling": "mean"},
    ),
}
"""Each kind of circuit, and the grounds in which it is planted."""


def _grounds(changes: dict) -> str:
    described = []
    if "layers" in changes:
        described.append(f"{changes['layers']} layers")
    if "pooling" in changes:
        described.append("mean pooling")
    if "noise" in changes:
        described.append("loud")
    return ", ".join(described)


def plant(design: Callable[[Ground], Planted], seed: int = 0, **changes) -> Planted:
    """The design in a ground that differs from the default one in ``changes``."""
    name = ": ".join(filter(None, (design.__name__, _grounds(changes))))
    with torch.no_grad():
        return design(Ground(seed=seed, name=name, **changes))


def garden(seed: int = 0) -> list[Planted]:
    """All designs in all of their grounds."""
    return [plant(design, seed, **changes) for design, every in DESIGNS.items() for changes in every]


PLANTS = {
    design.__name__: (lambda design=design, seed=seed: plant(design, seed))
    for seed, design in enumerate((copy_head, and_paths, or_paths, key_only_head))
}
"""One model of four designs each, in the default ground."""
FIRST_PATH = (("embed", "a0.h0.v"), ("a0.h0", "m1"))
SECOND_PATH = (("embed", "a0.h2.v"), ("a0.h2", "m1"))


class Bed:
    """A model that reads the answer but has only distractors, and random images, both drawn by the ground's seed."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        config = ViTConfig(
            image_size=4,
            patch_size=2,
            in_channels=1,
            num_classes=2,
            d_model=WIDTH,
            num_layers=ground.layers,
            num_heads=HEADS,
            d_mlp=16,
            pooling=ground.pooling,
        )
        self.model = ViT(config).double().eval()
        self.generator = torch.Generator().manual_seed(ground.seed)
        self._fill()
        self.pixels = torch.randn(IMAGES, 4, len(PIXELS), generator=self.generator, dtype=torch.float64)
        self.pixels[:, :, 0] = torch.randint(2, (IMAGES, 4), generator=self.generator).double()
        self.pixels[:, :, 1] = 0.0

    def _draw(self, rows: int, columns: int) -> Tensor:
        drawn = torch.randn(rows, columns, generator=self.generator, dtype=torch.float64)
        return drawn / math.sqrt(columns)

    def _fill(self) -> None:
        model = self.model
        for parameter in model.parameters():
            parameter.zero_()
        model.patches.weight.copy_(torch.stack([along(name) for name in PIXELS], dim=1))
        tokens = torch.stack([along(name) for name in TOKENS])[-len(model.positions) :]
        model.positions.copy_(CONSTANT * along("constant") + tokens)
        # What distractors read of each other is weak, or it would grow from layer to layer until norms follow it.
        readable = torch.cat([4 * BASIS[1 : len(NAMED)], 0.25 * JUNK])
        for block in model.blocks:
            # The norm divides by CONSTANT / √WIDTH.
            for norm in (block.attention.norm, block.mlp.norm):
                norm.weight.fill_(CONSTANT / math.sqrt(WIDTH))
            for reader, out in ((block.attention.qkv, block.attention.out), (block.mlp.hidden, block.mlp.out)):
                reader.weight.copy_(self._draw(reader.out_features, len(readable)) @ readable)
                out.weight.copy_(self.ground.noise * JUNK.T @ self._draw(len(JUNK), out.weight.shape[1]))
        model.norm.weight.fill_(CONSTANT / math.sqrt(WIDTH))
        model.classifier.weight.copy_(torch.stack([-LEAD / 2 * along("answer"), LEAD / 2 * along("answer")]) * 2)
        model.classifier.bias.copy_(torch.tensor([LEAD / 2, -LEAD / 2]))

    def head(
        self,
        layer: int,
        head: int,
        *,
        attention: list[tuple[str | None, str]],
        reads: str,
        writes: str,
        scale: float = 1.0,
    ) -> None:
        """Make a head attend by pairs of query and key directions (None: every token asks), copying what it finds."""
        part, width = self.model.blocks[layer].attention, self.model.config.d_head
        weight = rearrange(part.qkv.weight, "(qkv h k) d -> qkv h k d", qkv=3, k=width)[:, head]
        bias = rearrange(part.qkv.bias, "(qkv h k) -> qkv h k", qkv=3, k=width)[:, head]
        columns = part.out.weight[:, head * width : (head + 1) * width]
        for tensor in (weight, columns):
            tensor.zero_()
        for place, (query, key) in enumerate(attention):
            if query is None:
                bias[0, place] = math.sqrt(width)
            else:
                weight[0, place] = math.sqrt(width) * along(query)
            weight[1, place] = FOCUS * along(key)
        weight[2, 0] = along(reads)
        columns[:, 0] = scale * along(writes)

    def step(self, layer: int, *, reads: list[str], writes: str, low: float, high: float) -> None:
        """Make an MLP write 0 where the sum of what it reads is below ``low`` and 1 where it is above ``high``."""
        mlp = self.model.blocks[layer].mlp
        mlp.hidden.weight[:2] = SHARPNESS * torch.stack([along(name) for name in reads]).sum(dim=0)
        mlp.hidden.bias[:2] = -SHARPNESS * torch.tensor([low, high], dtype=torch.float64)
        step = along(writes) / (SHARPNESS * (high - low))
        mlp.out.weight[:, :2] = torch.stack([step, -step], dim=1)

    def planted(self, labels: Tensor, true_edges: list[Edge], reference: Tensor | None = None) -> Planted:
        """The finished model; removed edges carry the mean over ``reference`` pixels, by default over the images."""
        images = to_images(self.pixels)
        return Planted(
            name=self.ground.name,
            model=self.model,
            images=images,
            labels=labels.long(),
            graph=Graph.of(self.model),
            ablation=Ablation.mean(self.model, images if reference is None else to_images(reference)),
            true_edges=frozenset(true_edges),
        )


def to_images(pixels: Tensor) -> Tensor:
    """Images ``(b, 1, 4, 4)`` of ``pixels (b, patches, pixels)``."""
    return rearrange(pixels, "b (y x) (p q) -> b 1 (y p) (x q)", y=2, p=2)


def _plant_gate(bed: Bed, low: float, high: float, second: int | None = None) -> list[Edge]:
    """Two heads copy the bits of patches 1 and 2, the second in layer ``second``; an MLP steps where their sum is."""
    early, late = bed.ground.places[0], bed.ground.places[-1]
    second = early if second is None else second
    bed.head(early, 0, attention=[(None, "patch 1")], reads="bit", writes="first")
    bed.head(second, 2, attention=[(None, "patch 2")], reads="bit", writes="second")
    bed.step(late, reads=["first", "second"], writes="answer", low=low, high=high)
    edges = []
    for layer, head in ((early, 0), (second, 2)):
        edges += [("embed", f"a{layer}.h{head}.v"), (f"a{layer}.h{head}", f"m{late}")]
    return [*edges, (f"m{late}", "logits")]


def _with_both_bits(bed: Bed, edges: list[Edge]) -> Planted:
    """Both bits are on or both are off; removed edges carry what they do when all are off."""
    bed.pixels[:, :2, 0] = (torch.arange(IMAGES) % 4 > 0).double()[:, None]
    off = bed.pixels.clone()
    off[:, :, 0] = 0.0
    return bed.planted(labels=bed.pixels[:, :2, 0].amax(1), true_edges=edges, reference=off)


def _mark_patch_three_or_four(bed: Bed) -> Tensor:
    """Mark one of the two at random; returns the bits of patch 1 where it is patch 3, of patch 2 otherwise."""
    chosen = torch.randint(2, (IMAGES,), generator=bed.generator)
    bed.pixels[torch.arange(IMAGES), 2 + chosen, 1] = 1.0
    return bed.pixels[torch.arange(IMAGES), chosen, 0]
