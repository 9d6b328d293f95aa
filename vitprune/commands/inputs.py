"""What every command that runs a model does first: read params, pick the device, check that inputs belong together."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from vitprune.circuit import Circuit
from vitprune.circuit.options import AcdcOptions
from vitprune.commands.unwatched import warn_of_changes
from vitprune.core.compute.device import pick_device, set_threads
from vitprune.core.compute.distributed import join
from vitprune.core.compute.launch import check_processes, launch, ranks_on_this_machine, started_rank
from vitprune.core.model import SavedModel, load_model
from vitprune.core.packed import PackedData, load_packed
from vitprune.data.cleaning.manifest import MANIFEST_FILE, kept_names
from vitprune.data.options import made_with
from vitprune.errors import CheckpointError, DataError
from vitprune.params import Params, load_params
from vitprune.recipes.train import vit_config


def open_params(path: Path) -> tuple[Params, torch.device]:
    """The params, and the device they ask for; the number of threads is set.

    If the params ask for several processes, the command runs in those, and this process ends with their exit status.
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


def open_data(folder: Path, params: Params) -> PackedData:
    """Packed data that were made with these params, as far as the data say what they were made with.

    Raises DataError, naming the first param that differs, or as :func:`vitprune.core.packed.load_packed` does.
    """
    packed = load_packed(folder)
    made = {**packed.made_with, "data.image_size": packed.image_size, "data.channels": packed.channels}
    for key, wanted in made_with(params.data, params.clean).items():
        found = made.get(key, wanted)
        if found != wanted:
            raise DataError(
                f"{folder}: was made with {key}: {found}, but params say {wanted}; run the clean stage again, "
                "or use the params it was made with"
            )
    return packed


def chosen_images(options: AcdcOptions, data: Path) -> np.ndarray | None:
    """The indices of the training images whose names the file ``acdc.images`` lists; None if there is no such file.

    Raises DataError if it cannot be read, or names what is not a training image.
    """
    if options.images is None:
        return None
    path = Path(options.images).expanduser()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
            names = [row["name"] for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"acdc.images: {path} cannot be read ({error})") from error
    except KeyError:
        raise DataError(
            f"acdc.images: {path} has no column name, which holds names as in {data / MANIFEST_FILE}"
        ) from None
    position = {name: index for index, name in enumerate(kept_names(data)["train"])}
    for name in names:
        if name not in position:
            raise DataError(
                f"acdc.images: {path} names {name!r}, which is no training image; see the names in "
                f"{data / MANIFEST_FILE} whose split is train and whose action is kept"
            )
    if not names:
        raise DataError(f"acdc.images: {path} names no image")
    return np.array(sorted({position[name] for name in names}))


def load_circuit(folder: Path, device: torch.device) -> Circuit:
    """Load a circuit, with a warning if a file that it was found with has changed since.

    Raises CheckpointError as ``Circuit.load`` does.
    """
    circuit = Circuit.load(folder, device)
    warn_of_changes(folder)
    return circuit


def load_for(folder: Path, params: Params, data: PackedData, device: torch.device) -> SavedModel:
    """Load a model, pruned or not, that these params trained on these images.

    Raises CheckpointError if its shape or its classes are others.
    """
    saved = load_model(folder, device)
    unpruned = saved.model.config.unpruned
    expected = vit_config(params.model, data)
    for name in expected.__dataclass_fields__:
        found, wanted = getattr(unpruned, name), getattr(expected, name)
        if found != wanted:
            raise CheckpointError(
                f"{folder}: was made with another configuration ({name} {found}, but params and data say {wanted}); "
                "train again, or use the params it was trained with"
            )
    if saved.class_names != data.class_names:
        raise CheckpointError(f"{folder}: its classes are not those of the data; train again on this data")
    warn_of_changes(folder)
    return saved
