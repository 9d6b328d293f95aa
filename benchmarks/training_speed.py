"""Images per second in training: against timm's ViT in a plain loop, and against PIL images through a DataLoader.

    python benchmarks/training_speed.py

Takes about five minutes on two cores. All that is compared takes its turn in every round of one process. Writes
benchmarks/results/training_speed.md.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timm
import torch
import torchvision
from discovery_models import ROOT, machine
from PIL import Image
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from vitprune.core.compute.device import keep_freed_memory
from vitprune.core.model import Preprocessing, ViT, ViTConfig
from vitprune.core.packed import Split
from vitprune.params import load_params
from vitprune.training.batches import place
from vitprune.training.compute import Compute
from vitprune.training.inputs import Inputs
from vitprune.training.steps import Steps

BATCH, CLASSES, SIZE, PATCH = 128, 10, 28, 4
WIDTH, LAYERS, HEADS, MLP = 128, 6, 8, 512
CPU = torch.device("cpu")
INPUT_IMAGES, INPUT_SIZE = 512, 64
PLAIN = {
    "horizontal_flip": 0.0,
    "crop_scale_min": 1.0,
    "rotation_degrees": 0.0,
    "policy": None,
    "noise_std": 0.0,
    "erasing": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
}


def made_up(count: int, channels: int, size: int) -> Split:
    """Images of smooth noise, which as files are about as large as photographs."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (count, channels, 8, 8), dtype=np.uint8))
    images = F.interpolate(coarse.float(), size=size, mode="bicubic").clamp(0, 255).byte().numpy()
    return Split(images=images, labels=rng.integers(0, CLASSES, count))


@dataclass(frozen=True)
class Entry:
    """Something to be timed: one call is one training step, or one pass over the images."""

    name: str
    run: Callable[[], object]
    kernels: Callable[[], AbstractContextManager[object]] = nullcontext


def timm_step(split: Split) -> Callable[[], object]:
    """A step of the loop that anybody would write."""
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=SIZE,
        patch_size=PATCH,
        in_chans=1,
        num_classes=CLASSES,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=HEADS,
        mlp_ratio=MLP / WIDTH,
    ).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)

    def step() -> None:
        loss = F.cross_entropy(model((images.float() / 255 - 0.5) / 0.5), labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        loss.item()

    return step


def our_step(split: Split, precision: str, *, is_compiled: bool, is_augmented: bool = False) -> Callable[[], object]:
    """A whole step of the trainer."""
    config = ViTConfig(
        image_size=SIZE,
        patch_size=PATCH,
        in_channels=1,
        num_classes=CLASSES,
        d_model=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        d_mlp=MLP,
    )
    recipe = load_params(ROOT / "profiles" / "fashion-mnist.yaml").train
    augment = recipe.augment if is_augmented else recipe.augment.model_copy(update=PLAIN)
    changes = {"epochs": 10_000, "learning_rate": 1e-3, "warmup_epochs": 0.0, "batch_size": BATCH}
    steps = Steps(
        ViT(config),
        place(split, CPU),
        recipe.model_copy(update=changes | {"compile": is_compiled, "augment": augment}),
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
        compute=Compute(device=CPU, precision=precision, seed=0),
    )

    def step() -> None:
        steps.train_epoch(lambda: None)
        steps.next_epoch()

    return step


PER_IMAGE = transforms.Compose(
    [
        transforms.RandomResizedCrop(INPUT_SIZE, scale=(0.5, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(15),
        transforms.ToTensor(),
        transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        transforms.RandomErasing(0.1),
    ]
)


class DecodedImages(Dataset):
    """Images that PIL decoded before, with transforms for each."""

    def __init__(self, split: Split) -> None:
        self.images = [Image.fromarray(image.transpose(1, 2, 0)) for image in split.images]
        self.labels = split.labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return PER_IMAGE(self.images[index]), int(self.labels[index])


def image_files(split: Split, folder: Path) -> ImageFolder:
    """The images as JPEG files in class folders, as Tiny-ImageNet comes, decoded each time they are asked for."""
    for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        path = folder / str(label) / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return ImageFolder(folder, PER_IMAGE)


def loader_pass(images: Dataset, workers: int) -> Callable[[], object]:
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: [images.shape for images, _ in loader]


def our_pass(split: Split) -> Callable[[], object]:
    augment = load_params(ROOT / "profiles" / "tiny-imagenet.yaml").train.augment
    same = {"crop_scale_min": 0.5, "rotation_degrees": 15, "horizontal_flip": 0.5, "erasing": 0.1}
    inputs = Inputs(
        images=place(split, CPU),
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3),
        augment=augment.model_copy(update=PLAIN | same),
        num_classes=CLASSES,
        batch_size=BATCH,
        seed=0,
    )
    return lambda: [inputs.batch(indices, 1, k)[0].shape for k, indices in enumerate(inputs.order(1))]


def measured(entries: list[Entry], rounds: int) -> list[list[float]]:
    """Seconds of every entry in every round, after two rounds of warming up."""
    seconds: list[list[float]] = [[] for _ in entries]
    for count in range(rounds + 2):
        for entry, found in zip(entries, seconds, strict=True):
            with entry.kernels():
                start = time.perf_counter()
                entry.run()
                if count >= 2:
                    found.append(time.perf_counter() - start)
        sys.stderr.write(f"round {count - 1} of {rounds}\n")
    return seconds


def table(entries: list[Entry], seconds: list[list[float]], images: int) -> list[str]:
    """Rows of the result; ratios are medians of those of each round, against the first entry."""
    lines = ["| | ms | images/s | ratio |", "| --- | ---: | ---: | ---: |"]
    for entry, found in zip(entries, seconds, strict=True):
        middle = statistics.median(found)
        ratio = statistics.median(first / mine for first, mine in zip(seconds[0], found, strict=True))
        lines.append(f"| {entry.name} | {1000 * middle:.0f} | {images / middle:,.0f} | {ratio:.2f}× |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "training_speed.md")
    arguments = parser.parse_args()
    # As the train command does. All that is compared here has the good of it.
    keep_freed_memory()
    split = made_up(BATCH, 1, SIZE)

    def fused() -> AbstractContextManager[object]:
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION)

    def math() -> AbstractContextManager[object]:
        return sdpa_kernel(SDPBackend.MATH)

    steps = [
        Entry("timm, plain loop, fp32", timm_step(split)),
        Entry("vitprune, fp32, fused attention", our_step(split, "fp32", is_compiled=False), fused),
        Entry("vitprune, fp32, math attention", our_step(split, "fp32", is_compiled=False), math),
        Entry("vitprune, fp32, compiled", our_step(split, "fp32", is_compiled=True), fused),
        Entry("vitprune, bf16, fused attention", our_step(split, "bf16", is_compiled=False), fused),
        Entry("vitprune, bf16, math attention", our_step(split, "bf16", is_compiled=False), math),
        Entry("vitprune, bf16, math attention, compiled", our_step(split, "bf16", is_compiled=True), math),
        Entry(
            "vitprune, bf16, math attention, compiled, augmented",
            our_step(split, "bf16", is_compiled=True, is_augmented=True),
            math,
        ),
    ]
    step_seconds = measured(steps, arguments.rounds)
    colour = made_up(INPUT_IMAGES, 3, INPUT_SIZE)
    with TemporaryDirectory() as folder:
        files, decoded = image_files(colour, Path(folder)), DecodedImages(colour)
        passes = [
            Entry("PIL, from files, DataLoader, no workers", loader_pass(files, 0)),
            Entry("PIL, from files, DataLoader, 2 workers", loader_pass(files, 2)),
            Entry("PIL, decoded before, DataLoader, no workers", loader_pass(decoded, 0)),
            Entry("PIL, decoded before, DataLoader, 2 workers", loader_pass(decoded, 2)),
            Entry("vitprune, whole batches", our_pass(colour)),
        ]
        pass_seconds = measured(passes, arguments.rounds)
    lines = [
        "# Training: images per second",
        "",
        f"{machine()}, timm {timm.__version__}, torchvision {torchvision.__version__}. Medians of {arguments.rounds} "
        "rounds in turn; ratios are medians of those of each round, against the first line.",
        "",
        f"A whole step: width {WIDTH}, {LAYERS} layers, {HEADS} heads, MLP {MLP}, "
        f"{1 + (SIZE // PATCH) ** 2} tokens, batch {BATCH}; AdamW, clipping.",
        "",
        *table(steps, step_seconds, BATCH),
        "",
        f"The input side alone: {INPUT_IMAGES} images of {INPUT_SIZE}×{INPUT_SIZE} pixels in colour; crop, flip, "
        "rotation, erasing, normalisation.",
        "",
        *table(passes, pass_seconds, INPUT_IMAGES),
    ]
    arguments.output.write_text("\n".join(lines) + "\n")
    sys.stdout.write(arguments.output.read_text())


if __name__ == "__main__":
    main()
