"""Recovery of a pruned model in rounds: recover, prune on, recover, until it is as fast as it should be."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vitprune.circuit import Ablation
from vitprune.circuit.discovery import ablation_of
from vitprune.circuit.neurons import sort_neurons
from vitprune.commands import fitting
from vitprune.commands.pruning import prune_to_target
from vitprune.commands.searching import search_images
from vitprune.config import Params
from vitprune.data.packed import PackedData
from vitprune.distributed import from_main
from vitprune.errors import VitpruneError
from vitprune.model import SavedModel, ViT, load_model, save_model
from vitprune.storage import atomic_folder, read_json, write_json
from vitprune.training import TrainingResult
from vitprune.training.history import EpochRecord
from vitprune.training.weights import weights_digest


def recover(
    pruned: SavedModel,
    teacher: SavedModel,
    packed: PackedData,
    params: Params,
    device: torch.device,
    *,
    state: Path,
    latency: Path,
) -> tuple[SavedModel, TrainingResult, list[dict[str, Any]]]:
    """Train a pruned model in the rounds of ``params.finetune``, ``teacher`` being the baseline.

    Returns the model of the last round, the records of all, and figures of what was pruned between them. An
    interrupted call leaves files named after ``state``, from which the next goes on.
    """
    rounds, results, figures = params.finetune.rounds, [], []
    for number in range(1, rounds + 1):
        here = state if rounds == 1 else state.with_stem(f"{state.stem}_round{number}")
        if number > 1:
            # What was measured decides the shape: a round that was interrupted must go on with the same.
            smaller, found = from_main(
                partial(_prune_on, pruned, teacher, packed, params, device, number, here.with_suffix(""), latency)
            )
            pruned = replace(pruned, model=smaller.to(device))
            figures.append(found)
        result = fitting.fit(
            pruned,
            packed,
            params,
            params.finetune.of_round(number),
            device,
            description="finetune pruned" if rounds == 1 else f"finetune pruned, round {number} of {rounds}",
            state=here,
            teacher=teacher,
            scope=params.finetune.scope,
        )
        results.append(result)
    return pruned, _joined(results), figures


def leftovers(state: Path, rounds: int) -> list[Path]:
    """The files and folders that ``recover`` may leave."""
    stems = [f"{state.stem}_round{number}" for number in range(1, rounds + 1)]
    return [state, *(state.with_stem(stem) for stem in stems), *(state.with_name(stem) for stem in stems)]


def _prune_on(
    pruned: SavedModel,
    teacher: SavedModel,
    packed: PackedData,
    params: Params,
    device: torch.device,
    number: int,
    folder: Path,
    latency: Path,
) -> tuple[ViT, dict[str, Any]]:
    options, search = params.prune_in_round(number), params.acdc
    key = {"from": weights_digest(pruned.model), "prune": options.model_dump()}
    try:
        left = read_json(folder / "round.json")
        if left["key"] == key:
            return load_model(folder / "model", device).model, left["figures"]
    except (VitpruneError, KeyError, TypeError):
        pass
    images, _ = search_images(packed, pruned.preprocessing, search.num_images, search.seed, device)
    reference, _ = search_images(packed, pruned.preprocessing, search.num_reference_images, search.seed, device)
    model = sort_neurons(pruned.model, images, torch.Generator().manual_seed(search.seed))
    ablation = ablation_of(search, model, reference)
    if not ablation.foldable:
        ablation = Ablation.mean(model, reference)
    small, figures = prune_to_target(options, model, images, ablation, device, latency=latency, baseline=teacher.model)
    with atomic_folder(folder) as partial_folder:
        save_model(partial_folder / "model", replace(pruned, model=small))
        write_json(partial_folder / "round.json", {"key": key, "figures": figures})
    return small, figures


def _joined(results: list[TrainingResult]) -> TrainingResult:
    """The records of all rounds as those of one training; the best epoch is the last round's."""
    history: list[EpochRecord] = []
    before = 0
    for result in results:
        before = len(history)
        history += [replace(record, epoch=before + record.epoch) for record in result.history]
    return TrainingResult(
        history=tuple(history),
        gradient_flow=results[-1].gradient_flow,
        best_epoch=before + results[-1].best_epoch,
    )
