"""What every command that runs a model does first: read params, take the device, check that inputs belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vitprune.config import Params, load_params
from vitprune.data.packed import PackedData
from vitprune.device import pick_device, set_threads
from vitprune.distributed import join
from vitprune.errors import CheckpointError
from vitprune.launch import check_processes, launch, ranks_on_this_machine, started_rank
from vitprune.model import SavedModel, ViTConfig, load_model


def open_params(path: Path) -> tuple[Params, torch.device]:
    """The params, and the device they ask for; the number of threads is set.

    With more than one process asked for, the command goes on in those: the one that was started ends here, with their
    exit status.
    """
    params = load_params(path)
    compute, rank = params.compute, started_rank()
    device = pick_device(compute.device, rank.local_rank if rank else None)
    if rank is None and compute.processes > 1:
        check_processes(compute.processes, device)
        raise SystemExit(launch(compute.processes))
    threads = compute.threads
    if rank and rank.size > 1:
        join(rank, device)
        if threads is None and device.type == "cpu":
            threads = max(1, torch.get_num_threads() // ranks_on_this_machine(rank))
    set_threads(threads)
    return params, device


def vit_config(params: Params, data: PackedData) -> ViTConfig:
    """The shape of the model that these params train on these images."""
    model = params.model
    return ViTConfig(
        image_size=data.image_size,
        patch_size=model.patch_size,
        in_channels=data.channels,
        num_classes=data.num_classes,
        d_model=model.d_model,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        d_mlp=model.d_mlp,
        patch_embedding=model.patch_embedding,
        positions=model.positions,
        pooling=model.pooling,
        dropout=model.dropout,
        drop_path=model.drop_path,
    )


def load_for(folder: Path, params: Params, data: PackedData, device: torch.device) -> SavedModel:
    """Load a model, pruned or not, that these params trained on these images.

    Raises CheckpointError if its shape or its classes are others: it was made with another configuration.
    """
    saved = load_model(folder, device)
    unpruned = replace(saved.model.config, heads_per_layer=None, neurons_per_layer=None, token_biases=False)
    expected = vit_config(params, data)
    for name in expected.__dataclass_fields__:
        found, wanted = getattr(unpruned, name), getattr(expected, name)
        if found != wanted:
            raise CheckpointError(
                f"{folder}: was made with another configuration ({name} {found}, but params and data say {wanted}); "
                "train again, or use the params it was trained with"
            )
    if saved.class_names != data.class_names:
        raise CheckpointError(f"{folder}: its classes are not those of the data; train again on this data")
    return saved
