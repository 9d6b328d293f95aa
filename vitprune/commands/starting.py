"""What training starts from: fresh weights, or pretrained ones."""

from __future__ import annotations

from pathlib import Path

import torch

from vitprune.commands.context import vit_config
from vitprune.config import Params
from vitprune.data.packed import PackedData
from vitprune.model import Preprocessing, SavedModel, ViT
from vitprune.pretrained import load_pretrained


def starting_model(params: Params, data: PackedData) -> SavedModel:
    """A model for these images: pretrained, with the normalisation that it knows, if the params name one.

    A fresh one gets the mean and deviation of the training images. Raises as ``load_pretrained``.
    """
    config = vit_config(params, data)
    generator = torch.Generator().manual_seed(params.compute.seed)
    if params.model.pretrained is None:
        model, preprocessing = ViT(config), Preprocessing(mean=data.mean, std=data.std)
        model.initialise(generator)
    else:
        file = params.model.pretrained_path
        path = None if file is None else Path(file).expanduser()
        model, preprocessing = load_pretrained(params.model.pretrained, config, path=path, generator=generator)
    return SavedModel(model=model, preprocessing=preprocessing, class_names=data.class_names)
