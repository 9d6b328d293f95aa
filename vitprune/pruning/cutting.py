"""Compact models of a baseline: what a circuit needs of it, or what meets a target of speed or KL."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.metrics import kl_divergence
from vitprune.circuit.neurons import sort_neurons
from vitprune.circuit.sample import training_sample
from vitprune.core.compute.device import pick_device
from vitprune.core.compute.distributed import from_main
from vitprune.core.model import SavedModel, ViT
from vitprune.core.packed import PackedData
from vitprune.pruning.compact import compact, cut, survivors_of
from vitprune.pruning.fold import Fold
from vitprune.pruning.measurements import Measurements, SpeedMeter
from vitprune.pruning.options import FoldName, PruneOptions
from vitprune.pruning.reach_speedup import TOLERANCE, Pruned, reach_speedup
from vitprune.pruning.refit import refit
from vitprune.pruning.search import Move, SpeedProgress, SpeedSearch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CompactModel:
    """A compact model on the device of the run, its metrics, the moves of the search, and what was measured for it."""

    saved: SavedModel
    metrics: dict[str, Any]
    trace: tuple[Move, ...]
    measurements: Measurements


def prune_to_target(
    packed: PackedData,
    saved: SavedModel,
    options: PruneOptions,
    device: torch.device,
    *,
    baseline: ViT | None = None,
    known: Measurements | None = None,
    on_progress: Callable[[SpeedProgress], None] | None = None,
) -> CompactModel:
    """The compact model that meets the target of ``options``; its metrics are those of the search alone.

    If ``saved`` is pruned already, ``baseline`` is what it was before: a speed-up is counted from there. Of several
    ranks the main one searches, and all return the same model on their own device.
    """
    images, fold_images = (
        training_sample(packed, saved.preprocessing, count, options.seed, device)[0]
        for count in (options.num_images, options.num_fold_images)
    )
    model = sort_neurons(saved.model, images, torch.Generator().manual_seed(options.seed))

    def search() -> CompactModel:
        meter = _meter(baseline or model, options, device, known)
        pruned = search_target(options, model, images, fold_images, meter, on_progress=on_progress)
        result = _result(saved, pruned, meter, predicted=round(meter.predicted_speedup(pruned.model), 3))
        _warn_if_too_slow(result.metrics["measured_speedup"], options)
        return _on_cpu(result)

    return _on_device(from_main(search), device)


def search_target(
    options: PruneOptions,
    model: ViT,
    images: Tensor,
    fold_images: Tensor,
    meter: SpeedMeter,
    *,
    on_progress: Callable[[SpeedProgress], None] | None = None,
) -> Pruned:
    """The compact model that meets the target of ``options``.

    Of the normalised images ``(b, c, height, width)``, ``images`` are those on which KL is measured, and
    ``fold_images`` those from which is learnt what stands for removed parts.
    """
    mean = Fold.mean(Ablation.mean(model, fold_images), model)
    affine = Fold.affine(model, fold_images) if options.fold != "mean" else mean
    table = meter.table()

    def found_by(fold: Fold) -> tuple[Pruned, float]:
        search = SpeedSearch(
            model, images, fold, table, options.group_size, batch_size=options.batch_size, on_progress=on_progress
        )
        if options.target_speedup is not None:
            return reach_speedup(search, model, fold, options.target_speedup, meter), 0.0
        assert options.target_kl is not None
        search.reach_kl(options.target_kl)
        small = cut(model, search.survivors, fold)
        return Pruned(model=small, kl=search.kl, trace=tuple(search.trace), corrections=0), search.milliseconds

    if options.fold != "refit":
        return found_by(affine)[0]
    # No search sees the refit, and now one, now the other fold leaves what it makes the most of: decision 0015.
    candidates = [found_by(fold) for fold in (mean, affine)]
    fitted = [(_refitted(pruned, model, images, fold_images, options), ms) for pruned, ms in candidates]
    return min(fitted, key=lambda candidate: (candidate[1], candidate[0].kl))[0]


def _warn_if_too_slow(measured: float, options: PruneOptions) -> None:
    if options.target_speedup is not None and measured < (1 - TOLERANCE) * options.target_speedup:
        logger.warning(
            "prune.target_speedup %g was met when the model was chosen, but measured once more the model is only "
            "%.2f times as fast as the baseline: times differ from run to run on this machine. Raise "
            "prune.timing_rounds, or run on a quiet machine after deleting models/latency.json",
            options.target_speedup,
            measured,
        )


def _refitted(pruned: Pruned, model: ViT, images: Tensor, fold_images: Tensor, options: PruneOptions) -> Pruned:
    """``pruned`` after a refit, if that has a lower KL."""
    small = refit(pruned.model, model, fold_images)
    kl = _kl(model, small, images, options)
    return replace(pruned, model=small, kl=kl) if kl < pruned.kl else pruned


def prune_to_circuit(
    packed: PackedData,
    saved: SavedModel,
    circuit: Circuit,
    options: PruneOptions,
    device: torch.device,
    *,
    known: Measurements | None = None,
) -> CompactModel:
    """The compact model of ``circuit``, which was found in ``saved``; its metrics are those of the pruning alone.

    Raises CircuitError if the circuit belongs to another model.
    """
    images, fold_images = (
        training_sample(packed, saved.preprocessing, count, options.seed, device)[0]
        for count in (options.num_images, options.num_fold_images)
    )

    def measure() -> CompactModel:
        small = _compact(saved.model, circuit, options.fold, fold_images)
        pruned = Pruned(model=small, kl=_kl(saved.model, small, images, options), trace=(), corrections=0)
        return _on_cpu(_result(saved, pruned, _meter(saved.model, options, device, known)))

    return _on_device(from_main(measure), device)


def _compact(model: ViT, circuit: Circuit, fold: FoldName, fold_images: Tensor) -> ViT:
    if fold == "affine":
        circuit.graph.check(model)
        return cut(model, survivors_of(circuit), Fold.affine(model, fold_images))
    # Only what is the same for every image can be folded into the weights.
    ablation = circuit.ablation if circuit.ablation.foldable else Ablation.mean(model, fold_images)
    small = compact(model, replace(circuit, ablation=ablation))
    return refit(small, model, fold_images) if fold == "refit" else small


@torch.inference_mode()
def _kl(model: ViT, small: ViT, images: Tensor, options: PruneOptions) -> float:
    """KL(model ‖ small) in nats, mean over the images."""
    batches = images.split(options.batch_size or len(images))
    full, dense = (torch.cat([of(batch) for batch in batches]) for of in (model, small))
    return kl_divergence(full, dense)


def _meter(baseline: ViT, options: PruneOptions, device: torch.device, known: Measurements | None) -> SpeedMeter:
    return SpeedMeter(
        baseline, options.group_size, options.protocol(pick_device(options.timing_device or str(device))), known
    )


def _result(saved: SavedModel, pruned: Pruned, meter: SpeedMeter, *, predicted: float | None = None) -> CompactModel:
    # Measured once more: the search chose among measurements, and the best of several is too good.
    measured = round(meter.speedup(pruned.model), 3)
    metrics: dict[str, Any] = {"search_kl": pruned.kl, "measured_speedup": measured, "corrections": pruned.corrections}
    if predicted is not None:
        metrics["predicted_speedup"] = predicted
    return CompactModel(
        saved=replace(saved, model=pruned.model),
        metrics=metrics,
        trace=pruned.trace,
        measurements=meter.measurements,
    )


def _on_cpu(result: CompactModel) -> CompactModel:
    # What the main rank hands to the others must not sit on the main rank's own device.
    return _on_device(result, torch.device("cpu"))


def _on_device(result: CompactModel, device: torch.device) -> CompactModel:
    return replace(result, saved=replace(result.saved, model=result.saved.model.to(device)))
