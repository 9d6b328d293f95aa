"""The recipe of the finetune stage: recovery of the pruned model, and the same training of the baseline as its control.

With several rounds the pruned model is recovered, pruned further, and recovered again, until it is as fast as it should
be.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vitprune.core.compute.device import ComputeOptions
from vitprune.core.compute.distributed import from_main, world
from vitprune.core.model import SavedModel, load_model, save_model
from vitprune.core.packed import PackedData
from vitprune.errors import VitpruneError
from vitprune.pruning.cutting import prune_to_target
from vitprune.pruning.measurements import Measurements
from vitprune.pruning.options import PruneOptions
from vitprune.pruning.search import SpeedProgress
from vitprune.storage import atomic_folder, check_unchanged, read_json, write_json
from vitprune.training.fit import Trained, TrainingProgress, fit, trained
from vitprune.training.history import EpochRecord
from vitprune.training.options import FinetuneOptions, TrainOptions
from vitprune.training.progress import TrainingResult
from vitprune.training.weights import weights_digest

MODELS = ("baseline", "pruned")
"""The control and the pruned model."""

WatchTraining = Callable[[str], AbstractContextManager[TrainingProgress | None]]
WatchPruning = Callable[[str], AbstractContextManager[Callable[[SpeedProgress], None] | None]]
"""Context managers: given a description, they yield the progress callbacks."""


def _unwatched(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """Both models after fine-tuning, by the names of ``MODELS``, and figures of what was pruned between the rounds."""

    models: dict[str, Trained]
    pruned_between: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What recovering a pruned model takes: data, the options of all components, and where it runs.

    ``state`` is a file in which an interrupted call is kept; files and folders beside it belong to rounds. ``known``
    are the measurements of the prune stage.
    """

    packed: PackedData
    train: TrainOptions
    finetune: FinetuneOptions
    prune: PruneOptions
    compute: ComputeOptions
    device: torch.device
    state: Path
    known: Measurements | None = None
    watch_training: WatchTraining = _unwatched
    watch_pruning: WatchPruning = _unwatched

    @property
    def states(self) -> dict[str, Path]:
        """The file that keeps the state of each model's training."""
        return {name: self.state.with_stem(f"{self.state.stem}_{name}") for name in MODELS}

    def run(self, baseline: SavedModel, pruned: SavedModel) -> Recovered:
        """Fine-tune both models for the same number of epochs; the baseline is also the teacher of both."""
        # A copy, because the control changes the baseline that it starts from.
        teacher = deepcopy(baseline)
        control = self._fit(baseline, teacher, self.finetune, "baseline", "finetune baseline", self.states["baseline"])
        pruned, result, figures = self.recover(pruned, teacher)
        results = {"baseline": (baseline, control), "pruned": (pruned, result)}
        return Recovered(
            models={
                name: trained(saved, found, self.packed, self.compute, self.device)
                for name, (saved, found) in results.items()
            },
            pruned_between=figures,
        )

    def recover(
        self, pruned: SavedModel, teacher: SavedModel
    ) -> tuple[SavedModel, TrainingResult, list[dict[str, Any]]]:
        """Train a pruned model in the rounds of ``finetune``, ``teacher`` being the baseline.

        Returns the model of the last round, the records of all, and figures of what was pruned between them.
        """
        rounds, state = self.finetune.rounds, self.states["pruned"]
        results: list[TrainingResult] = []
        figures: list[dict[str, Any]] = []
        for number in range(1, rounds + 1):
            of_round = state if rounds == 1 else state.with_stem(f"{state.stem}_round{number}")
            if number > 1:
                pruned, found = self._prune_on(pruned, teacher, number, of_round.with_suffix(""))
                figures.append(found)
            description = "finetune pruned" if rounds == 1 else f"finetune pruned, round {number} of {rounds}"
            options = self.finetune.of_round(number)
            results.append(self._fit(pruned, teacher, options, "pruned", description, of_round))
        return pruned, _joined(results), figures

    def leftovers(self) -> list[Path]:
        """The files and folders that a call may leave, for the caller to remove once all results are saved."""
        state = self.states["pruned"]
        stems = [f"{state.stem}_round{number}" for number in range(1, self.finetune.rounds + 1)]
        of_rounds = [path for stem in stems for path in (state.with_stem(stem), state.with_name(stem))]
        return [*self.states.values(), *of_rounds]

    def _fit(
        self,
        saved: SavedModel,
        teacher: SavedModel,
        options: FinetuneOptions,
        name: str,
        description: str,
        state: Path,
    ) -> TrainingResult:
        with self.watch_training(description) as progress:
            return fit(
                saved,
                self.packed,
                options.recipe(self.train),
                self.compute,
                self.device,
                teacher=teacher,
                state=state,
                progress=progress,
                scope=options.scope if name == "pruned" else "all",
                may_stay=True,
            )

    def _prune_on(
        self, pruned: SavedModel, teacher: SavedModel, number: int, folder: Path
    ) -> tuple[SavedModel, dict[str, Any]]:
        """The model pruned to the target of a round, kept in ``folder`` in case the round is interrupted.

        Measurements decide the shape: an interrupted round must go on with the same one.
        """
        options = self.prune.of_round(number, self.finetune.rounds)
        key = {"from": weights_digest(pruned.model), "prune": options.model_dump()}
        # The main rank looks: all ranks must go the same way.
        if kept := from_main(partial(_kept_round, folder, key)):
            saved, figures = kept
            return replace(saved, model=saved.model.to(self.device)), figures
        with self.watch_pruning("prune") as on_progress:
            smaller = prune_to_target(
                self.packed,
                pruned,
                options,
                self.device,
                baseline=teacher.model,
                known=self.known,
                on_progress=on_progress,
            )
        if world().is_main:
            with atomic_folder(folder) as new_folder:
                save_model(new_folder / "model", smaller.saved)
                write_json(new_folder / "round.json", {"key": key, "figures": smaller.metrics})
        return smaller.saved, smaller.metrics


def _kept_round(folder: Path, key: dict[str, Any]) -> tuple[SavedModel, dict[str, Any]] | None:
    """The pruned model, on the CPU, and the figures that an interrupted round with the same key left."""
    try:
        check_unchanged(folder)
        kept = read_json(folder / "round.json")
        return (load_model(folder / "model"), kept["figures"]) if kept["key"] == key else None
    except (VitpruneError, KeyError, TypeError):
        return None


def _joined(results: list[TrainingResult]) -> TrainingResult:
    """The records of all rounds as those of one training; the best epoch is the last round's, or its start."""
    history: list[EpochRecord] = []
    before = 0
    for result in results:
        before = len(history)
        history += [replace(record, epoch=before + record.epoch) for record in result.history]
    return TrainingResult(
        history=tuple(history),
        gradient_flow=results[-1].gradient_flow,
        best_epoch=before + results[-1].best_epoch,
        best=results[-1].best,
    )
