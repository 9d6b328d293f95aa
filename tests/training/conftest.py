"""A tiny model, a tiny data set and a plain recipe that the tests of training share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitprune.data.packed import Split
from vitprune.model import Preprocessing, ViT, ViTConfig
from vitprune.training.loop import TrainingResult, train
from vitprune.training.options import AugmentOptions, DistillationOptions, TrainOptions

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


def train_tiny(model: ViT, train_split: Split, val_split: Split, **changes: object) -> TrainingResult:
    """Train on the CPU for a few epochs; ``changes`` are other arguments of ``train``."""
    arguments: dict[str, object] = {
        "preprocessing": PREPROCESSING,
        "epochs": 3,
        "learning_rate": 0.003,
        "warmup_epochs": 1.0,
        "recipe": recipe(),
        "device": torch.device("cpu"),
        "precision": "fp32",
        "seed": 0,
    }
    return train(model, train_split, val_split, **{**arguments, **changes})


@pytest.fixture
def splits() -> tuple[Split, Split]:
    """Training and validation splits of noise."""
    return random_split(33, seed=1), random_split(20, seed=2)
