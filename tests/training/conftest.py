"""A tiny model, a tiny data set and a plain recipe that the tests of training share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from vitprune.core.model import Preprocessing, ViT, ViTConfig
from vitprune.core.packed import Split
from vitprune.training.compute import Compute
from vitprune.training.history import EpochRecord
from vitprune.training.loop import train
from vitprune.training.options import AugmentOptions, DistillationOptions, TrainOptions
from vitprune.training.progress import TrainingResult

NO_AUGMENTATION = AugmentOptions(
    horizontal_flip=0.0,
    crop_scale_min=1.0,
    rotation_degrees=0.0,
    policy=None,
    policy_magnitude=9,
    noise_std=0.0,
    erasing=0.0,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
)
ALL_AUGMENTATION = AugmentOptions(
    horizontal_flip=0.5,
    crop_scale_min=0.7,
    rotation_degrees=15.0,
    policy="randaugment",
    policy_magnitude=9,
    noise_std=0.05,
    erasing=0.5,
    mixup_alpha=0.3,
    cutmix_alpha=1.0,
)
PREPROCESSING = Preprocessing(mean=(0.5,), std=(0.3,))


def tiny_config(**changes: object) -> ViTConfig:
    shape: dict[str, object] = {
        "image_size": 8,
        "patch_size": 4,
        "in_channels": 1,
        "num_classes": 4,
        "d_model": 16,
        "num_layers": 2,
        "num_heads": 2,
        "d_mlp": 32,
    }
    return ViTConfig(**{**shape, **changes})


def tiny_model(seed: int = 0, **changes: object) -> ViT:
    model = ViT(tiny_config(**changes))
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def random_split(num_images: int, seed: int = 0, num_classes: int = 4) -> Split:
    """Images of noise with labels that only memory can tell."""
    rng = np.random.default_rng(seed)
    return Split(
        images=rng.integers(0, 256, (num_images, 1, 8, 8), dtype=np.uint8),
        labels=rng.integers(0, num_classes, num_images, dtype=np.int64),
    )


def recipe(**changes: object) -> TrainOptions:
    plain: dict[str, object] = {
        "epochs": 3,
        "batch_size": 8,
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "warmup_epochs": 1.0,
        "weight_decay": 0.05,
        "label_smoothing": 0.0,
        "clip_norm": 1.0,
        "compile": False,
        "ema_decay": None,
        "checkpoint_minutes": 5.0,
        "teacher": None,
        "distillation": DistillationOptions(weight=0.5, temperature=2.0, hard=False, feature_weight=0.0),
        "augment": NO_AUGMENTATION,
    }
    return TrainOptions(**{**plain, **changes})


def train_tiny(
    model: ViT, train_split: Split, val_split: Split, options: TrainOptions | None = None, **changes: object
) -> TrainingResult:
    """Train on the CPU in fp32 with seed 0; ``changes`` are fields of ``Compute`` or other arguments of ``train``."""
    compute: dict[str, object] = {"device": torch.device("cpu"), "precision": "fp32", "seed": 0}
    compute |= {name: changes.pop(name) for name in compute.keys() & changes.keys()}
    arguments: dict[str, object] = {"preprocessing": PREPROCESSING, **changes}
    return train(model, train_split, val_split, options or recipe(), compute=Compute(**compute), **arguments)


def weights_of(model: ViT) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(model: ViT, other: ViT | dict[str, torch.Tensor]) -> bool:
    """Whether two models, or a model and such a copy, are equal bit by bit."""
    others = other if isinstance(other, dict) else other.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in model.state_dict().items())


@dataclass(frozen=True)
class Trained:
    """A tiny model trained by the plain recipe, and what the callbacks saw."""

    model: ViT
    result: TrainingResult
    epochs: list[EpochRecord]
    steps: list[tuple[int, int]]


@pytest.fixture(scope="session")
def splits() -> tuple[Split, Split]:
    """Training and validation splits of noise."""
    return random_split(33, seed=1), random_split(20, seed=2)


@pytest.fixture(scope="session")
def trained(splits: tuple[Split, Split]) -> Trained:
    """One plain run that tests compare others with."""
    model, epochs, steps = tiny_model(), [], []
    result = train_tiny(model, *splits, on_epoch=epochs.append, on_step=lambda *step: steps.append(step))
    return Trained(model, result, epochs, steps)
