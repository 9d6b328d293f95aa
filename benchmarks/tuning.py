"""What benchmarks of pruning share: a pipeline's trained baseline, and fine-tuning from it, several models at once."""

import copy
import hashlib
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from vitprune.core.compute.device import keep_freed_memory
from vitprune.core.model import SavedModel, load_model
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.core.packed import PackedData, load_packed
from vitprune.params import Params, load_params
from vitprune.training.compute import Compute, choose_precision
from vitprune.training.distillation import Distiller
from vitprune.training.loop import train
from vitprune.training.options import DistillationOptions

CPU = torch.device("cpu")
Case, Result = TypeVar("Case"), TypeVar("Result")


@dataclass(frozen=True)
class Setting:
    """What all models of a benchmark are given: a folder in which the pipeline has run up to ``train``."""

    folder: Path
    params: Params
    packed: PackedData
    baseline: SavedModel

    @property
    def name(self) -> str:
        """Of the data and of this very baseline."""
        digest = hashlib.sha256()
        for file in sorted((self.folder / "models" / "baseline").iterdir()):
            digest.update(file.read_bytes())
        return f"{self.params.data.source}-{digest.hexdigest()[:8]}"


@lru_cache(maxsize=1)
def setting_of(folder: Path) -> Setting:
    return Setting(
        folder,
        load_params(folder / "params.yaml"),
        load_packed(folder / "data" / "clean"),
        load_model(folder / "models" / "baseline"),
    )


def at_once(work: Callable[[Case], Result], cases: Iterable[Case], jobs: int) -> Iterator[tuple[Case, Result]]:
    """Each case with its result, in order; in ``jobs`` processes that share the cores.

    Several small models keep the cores busier than one on all of them does. Nothing is to be timed meanwhile.
    """
    cases = list(cases)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_start, initargs=(jobs,)) as pool:
        yield from zip(cases, pool.map(work, cases), strict=True)


def _start(jobs: int) -> None:
    torch.set_num_threads(max((os.cpu_count() or 1) // jobs, 1))
    keep_freed_memory()


def accuracy_and_loss(given: Setting, model: torch.nn.Module, split: str) -> tuple[float, float]:
    """Accuracy in percent and loss in nats."""
    images = getattr(given.packed, split)
    found = score(predict(model, images.images, given.baseline.preprocessing, device=CPU), images.labels)
    return 100 * found.accuracy, found.loss


def accuracy(given: Setting, model: torch.nn.Module, split: str) -> float:
    """In percent."""
    return accuracy_and_loss(given, model, split)[0]


def tune(
    given: Setting,
    model: torch.nn.Module,
    seed: int,
    epochs: int,
    *,
    distillation: DistillationOptions | None = None,
    is_fresh: bool = False,
) -> None:
    """Fine-tune in place with the baseline as teacher; fresh weights are trained by the whole recipe before."""
    params, baseline = given.params, given.baseline
    options, distillation = params.finetune, distillation or params.finetune.distillation
    common = {
        "preprocessing": baseline.preprocessing,
        "compute": Compute(device=CPU, precision=choose_precision(params.compute.precision, CPU), seed=seed),
        "on_epoch": lambda record: sys.stderr.write(f"  epoch {record.epoch}: {100 * record.val_accuracy:.2f} %\n"),
    }
    splits = given.packed.train, given.packed.val
    if is_fresh:
        train(model, *splits, params.train, **common)
    teacher = Distiller(copy.deepcopy(baseline), distillation, baseline.preprocessing) if distillation.is_on else None
    length = {"epochs": epochs, "warmup_epochs": min(options.warmup_epochs, epochs / 4)}
    train(model, *splits, options.recipe(params.train).model_copy(update=length), distiller=teacher, **common)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation."""
    more = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else " (one seed)"
    return f"{statistics.mean(values):.{digits}f}{more}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
