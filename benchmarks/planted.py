"""Small ViTs built by hand, so that the edges of their true circuit are known before any search.

The stream is made of orthogonal directions, each with zero mean: one holds a constant a thousand times larger than
everything else, so that every layer norm divides by nearly the same and readers see the stream itself; others hold the
pixels of a patch, the number of a token, and what the planted parts write. Heads and neurons that are not planted read
random mixtures of all of these and write into directions that nothing planted reads.

Images have 2 × 2 patches of 2 × 2 pixels: a bit, a mark, and noise that only the distractors read.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit import Ablation, Edge, Graph
from vitprune.core.model import ViT, ViTConfig

PIXELS = ("bit", "mark", "noise one", "noise two")
TOKENS = ("class", "patch 1", "patch 2", "patch 3", "patch 4")
NAMED = ("constant", *PIXELS, *TOKENS, "first", "second", "answer")
WIDTH = 48
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


def along(name: str) -> Tensor:
    """The unit vector of a named direction of the stream."""
    return BASIS[NAMED.index(name)]


@torch.no_grad()
def copy_head() -> Planted:
    """Head a1.h1 looks for the marked patch, wherever it is, and copies its bit to the class token."""
    model, generator = _distractors(0)
    _plant_head(model, 1, 1, attention=[(None, along("mark"))], reads="bit", writes="answer")
    pixels = _pixels(generator)
    marked = torch.randint(4, (IMAGES,), generator=generator)
    pixels[torch.arange(IMAGES), marked, 1] = 1.0
    return _planted(
        "copy_head",
        model,
        pixels,
        labels=pixels[torch.arange(IMAGES), marked, 0],
        true_edges=[("embed", "a1.h1.k"), ("embed", "a1.h1.v"), ("a1.h1", "logits")],
    )


@torch.no_grad()
def and_paths() -> Planted:
    """Heads a0.h0 and a0.h2 copy the bits of two patches, m1 computes their AND; all four cases are as frequent."""
    model, generator = _distractors(1)
    _plant_gate(model, low=1.25, high=1.75)
    pixels = _pixels(generator)
    pixels[:, :2, 0] = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0)).repeat(IMAGES // 4, 1).double()
    return _planted("and_paths", model, pixels, labels=pixels[:, :2, 0].amin(1), true_edges=GATE_EDGES)


@torch.no_grad()
def or_paths() -> Planted:
    """As ``and_paths``, but OR, and on these images both bits are on or both are off: either path does for both.

    Removed edges carry the mean over the same images with all bits off: a path that is removed says "off".
    """
    model, generator = _distractors(2)
    _plant_gate(model, low=0.25, high=0.75)
    pixels = _pixels(generator)
    pixels[:, :2, 0] = (torch.arange(IMAGES) % 4 > 0).double()[:, None]
    off = pixels.clone()
    off[:, :, 0] = 0.0
    return _planted(
        "or_paths", model, pixels, labels=pixels[:, :2, 0].amax(1), true_edges=GATE_EDGES, reference=to_images(off)
    )


@torch.no_grad()
def key_only_head() -> Planted:
    """Head a1.h2 copies the bit of patch 1 or 2; which, it hears through its key from a0.h1.

    The mark is on patch 3 or on patch 4. In a0.h1 patch 1 looks at patch 3 and patch 2 at patch 4, and copies the mark.
    """
    model, generator = _distractors(3)
    pairs = [(along("patch 1"), along("patch 3")), (along("patch 2"), along("patch 4"))]
    _plant_head(model, 0, 1, attention=pairs, reads="mark", writes="first")
    _plant_head(model, 1, 2, attention=[(None, along("first"))], reads="bit", writes="answer")
    pixels = _pixels(generator)
    chosen = torch.randint(2, (IMAGES,), generator=generator)
    pixels[torch.arange(IMAGES), 2 + chosen, 1] = 1.0
    return _planted(
        "key_only_head",
        model,
        pixels,
        labels=pixels[torch.arange(IMAGES), chosen, 0],
        true_edges=[("embed", "a0.h1.v"), ("a0.h1", "a1.h2.k"), ("embed", "a1.h2.v"), ("a1.h2", "logits")],
    )


PLANTS = {plant.__name__: plant for plant in (copy_head, and_paths, or_paths, key_only_head)}
FIRST_PATH = (("embed", "a0.h0.v"), ("a0.h0", "m1"))
SECOND_PATH = (("embed", "a0.h2.v"), ("a0.h2", "m1"))
GATE_EDGES = [*FIRST_PATH, *SECOND_PATH, ("m1", "logits")]


def to_images(pixels: Tensor) -> Tensor:
    """Images ``(b, 1, 4, 4)`` of ``pixels (b, patches, pixels)``."""
    return rearrange(pixels, "b (y x) (p q) -> b 1 (y p) (x q)", y=2, p=2)


def _pixels(generator: torch.Generator) -> Tensor:
    """Random bits, no mark, and noise, ``(b, patches, pixels)``."""
    pixels = torch.randn(IMAGES, 4, len(PIXELS), generator=generator, dtype=torch.float64)
    pixels[:, :, 0] = torch.randint(2, (IMAGES, 4), generator=generator).double()
    pixels[:, :, 1] = 0.0
    return pixels


def _planted(
    name: str, model: ViT, pixels: Tensor, labels: Tensor, true_edges: list[Edge], reference: Tensor | None = None
) -> Planted:
    images = to_images(pixels)
    return Planted(
        name=name,
        model=model,
        images=images,
        labels=labels.long(),
        graph=Graph.of(model),
        ablation=Ablation.mean(model, images if reference is None else reference),
        true_edges=frozenset(true_edges),
    )


def _distractors(seed: int) -> tuple[ViT, torch.Generator]:
    """A model that reads the answer but has only distractors, and the generator that drew them."""
    config = ViTConfig(
        image_size=4, patch_size=2, in_channels=1, num_classes=2, d_model=WIDTH, num_layers=2, num_heads=4, d_mlp=16
    )
    model = ViT(config).double().eval()
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)

    for parameter in model.parameters():
        parameter.zero_()
    model.patches.weight.copy_(torch.stack([along(name) for name in PIXELS], dim=1))
    model.positions.copy_(CONSTANT * along("constant") + torch.stack([along(name) for name in TOKENS]))
    readable = BASIS[1:]
    for block in model.blocks:
        # The norm divides by CONSTANT / √WIDTH.
        for norm in (block.attention.norm, block.mlp.norm):
            norm.weight.fill_(CONSTANT / math.sqrt(WIDTH))
        for reader, out in ((block.attention.qkv, block.attention.out), (block.mlp.hidden, block.mlp.out)):
            reader.weight.copy_(4 * draw(reader.out_features, len(readable)) @ readable)
            out.weight.copy_(JUNK.T @ draw(len(JUNK), out.weight.shape[1]))
    model.norm.weight.fill_(CONSTANT / math.sqrt(WIDTH))
    model.classifier.weight.copy_(torch.stack([-LEAD / 2 * along("answer"), LEAD / 2 * along("answer")]) * 2)
    model.classifier.bias.copy_(torch.tensor([LEAD / 2, -LEAD / 2]))
    return model, generator


def _plant_head(
    model: ViT, layer: int, head: int, *, attention: list[tuple[Tensor | None, Tensor]], reads: str, writes: str
) -> None:
    """Make a head attend by pairs of query and key directions (None: every token asks), copying what it finds."""
    part, width = model.blocks[layer].attention, model.config.d_head
    weight = rearrange(part.qkv.weight, "(qkv h k) d -> qkv h k d", qkv=3, k=width)[:, head]
    bias = rearrange(part.qkv.bias, "(qkv h k) -> qkv h k", qkv=3, k=width)[:, head]
    columns = part.out.weight[:, head * width : (head + 1) * width]
    for tensor in (weight, columns):
        tensor.zero_()
    for place, (query, key) in enumerate(attention):
        if query is None:
            bias[0, place] = math.sqrt(width)
        else:
            weight[0, place] = math.sqrt(width) * query
        weight[1, place] = FOCUS * key
    weight[2, 0] = along(reads)
    columns[:, 0] = along(writes)


def _plant_gate(model: ViT, low: float, high: float) -> None:
    """Two heads copy the bits of patches 1 and 2; m1 writes 0 where their sum is below ``low`` and 1 above ``high``."""
    _plant_head(model, 0, 0, attention=[(None, along("patch 1"))], reads="bit", writes="first")
    _plant_head(model, 0, 2, attention=[(None, along("patch 2"))], reads="bit", writes="second")
    mlp = model.blocks[1].mlp
    mlp.hidden.weight[:2] = SHARPNESS * (along("first") + along("second"))
    mlp.hidden.bias[:2] = -SHARPNESS * torch.tensor([low, high], dtype=torch.float64)
    step = along("answer") / (SHARPNESS * (high - low))
    mlp.out.weight[:, :2] = torch.stack([step, -step], dim=1)
