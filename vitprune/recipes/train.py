"""The recipe of the train stage: a model from its start, fresh or pretrained, to its best weights."""

from __future__ import annotations

from pathlib import Path

import torch

from vitprune.core.compute.device import ComputeOptions
from vitprune.core.model import Preprocessing, SavedModel, ViT, ViTConfig
from vitprune.core.model.options import ModelOptions
from vitprune.core.packed import PackedData
from vitprune.pretrained import load_pretrained
from vitprune.training.fit import Trained, TrainingProgress, fit, trained
from vitprune.training.options import TrainOptions


def vit_config(options: ModelOptions, data: PackedData) -> ViTConfig:
    """The shape of the model that these options give on these images."""
    return ViTConfig(
        image_size=data.image_size, in_channels=data.channels, num_classes=data.num_classes, **options.shape()
    )


def starting_model(options: ModelOptions, data: PackedData, seed: int) -> SavedModel:
    """A model for these images: pretrained, with the normalisation it knows, if the options name one.

    A fresh one gets the mean and deviation of the training images. Raises as ``load_pretrained``.
    """
    config = vit_config(options, data)
    generator = torch.Generator().manual_seed(seed)
    if options.pretrained is None:
        model, preprocessing = ViT(config), Preprocessing(mean=data.mean, std=data.std)
        model.initialise(generator)
    else:
        file = options.pretrained_path
        path = None if file is None else Path(file).expanduser()
        model, preprocessing = load_pretrained(options.pretrained, config, path=path, generator=generator)
    return SavedModel(
        model=model,
        preprocessing=preprocessing,
        class_names=data.class_names,
        resize=data.made_with.get("clean.resize"),
        bit_depth=data.bit_depth,
    )


def train_baseline(
    packed: PackedData,
    model: ModelOptions,
    options: TrainOptions,
    compute: ComputeOptions,
    device: torch.device,
    *,
    teacher: SavedModel | None = None,
    state: Path | None = None,
    progress: TrainingProgress | None = None,
) -> Trained:
    """Train a model from its start to its end; ``teacher`` is on ``device`` already.

    ``state`` is a file in which an interrupted training is kept, so that the next call goes on from there.
    """
    saved = starting_model(model, packed, compute.seed)
    result = fit(saved, packed, options, compute, device, teacher=teacher, state=state, progress=progress)
    return trained(saved, result, packed, compute, device)
