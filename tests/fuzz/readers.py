"""Everything that reads files, each with a small real sample of what it reads."""

import gzip
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.circuit.oracle import random_images, random_model
from tests.data.conftest import class_folders, data_params, image_bytes, write_idx, write_tar, write_zip
from vitprune.circuit import Circuit, Graph, discover
from vitprune.circuit.circuit import Decision
from vitprune.circuit.engine.journal import Journal
from vitprune.core.model import Preprocessing, SavedModel, load_model, save_model
from vitprune.core.packed import load_packed
from vitprune.data.cleaning.decoding import decode
from vitprune.data.cleaning.packing import SplitContent, write_packed
from vitprune.data.cleaning.sources import open_archive, read_source
from vitprune.data.download.fetch import fetch
from vitprune.data.raw.folder import read_idx
from vitprune.data.raw.limits import UNLIMITED
from vitprune.errors import CircuitError, MeasurementError
from vitprune.params import apply_profile, load_params
from vitprune.pretrained.loading import read_weights
from vitprune.pruning.measurements import Measurements
from vitprune.report.pareto import read_experiments
from vitprune.storage import atomic_folder, read_json
from vitprune.training.state import State, StateFile

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    ``write`` puts a sample into an empty folder, ``read`` reads it. If the sample is one that vitprune itself writes,
    ``is_ours`` says that every change of it must be noticed.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    is_ours: bool = False


def write_params(folder: Path) -> None:
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())


def write_profile(folder: Path) -> None:
    write_params(folder)
    (folder / "profile.yaml").write_bytes((ROOT / "profiles" / "fashion-mnist.yaml").read_bytes())


def write_model(folder: Path) -> None:
    model = random_model(1, dtype=torch.float32)
    saved = SavedModel(model=model, preprocessing=Preprocessing(mean=(0.4,), std=(0.3,)), class_names=("a", "b", "c"))
    save_model(folder / "model", saved)


def write_circuit(folder: Path) -> None:
    model = random_model(9)
    discover(model, random_images(model), tau=0.01).save(folder / "circuit")


def write_data(folder: Path) -> None:
    def content(count: int, seed: int) -> SplitContent:
        images = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
        return SplitContent(blocks=[images], labels=np.arange(count) % 2)

    with atomic_folder(folder / "clean") as partial:
        write_packed(
            partial,
            {"train": content(6, 0), "val": content(3, 1), "test": content(2, 2)},
            class_names=("cat", "dog"),
            class_folders=("n1", "n2"),
            image_size=4,
            channels=3,
        )


def write_raw(folder: Path) -> None:
    archive = write_zip(folder / "images.zip", class_folders(count=2))
    with atomic_folder(folder / "raw") as partial:
        fetch(data_params(path=str(archive)), partial, lambda done, total: None)
    archive.unlink()


def read_archive(path: Path) -> object:
    collection = open_archive(path, UNLIMITED, max_pixels=10**6)
    return list(collection.read(range(len(collection.layout.images))))


def write_experiments(folder: Path) -> None:
    pruned = "upgraded_baseline_pruned"
    header = f"Experiment,rev,typ,Created,parent,State,upgraded_baseline.accuracy,{pruned}.accuracy,"
    header += f"{pruned}.batch_1.speedup,prune.target_speedup"
    rows = [",workspace,baseline,,,,0.474,0.434,2.247,", "a,55a2,branch_commit,2026-11-25,,Success,0.47,0.43,1.5,1.5"]
    (folder / "experiments.csv").write_text("\n".join([header, *rows]) + "\n")


GRAPH = Graph((2, 2), (12, 12))
DECISIONS = [
    Decision(sender=sender.name, receiver="logits", action=action, before=0.1 * number, after=0.1 * number + 0.05)
    for number, (sender, action) in enumerate(zip(GRAPH.senders, itertools.cycle(["kept", "removed"]), strict=False))
]


def write_journal(folder: Path) -> None:
    with Journal(GRAPH, folder / "search.journal", "key") as journal:
        for decision in DECISIONS:
            journal.record(decision)


def read_journal(folder: Path) -> None:
    """A line that is changed ends the journal; those before it are believed."""
    with Journal(GRAPH, folder / "search.journal", "key") as journal:
        known = list(iter(journal.next_known, None))
    assert known == DECISIONS[: len(known)]
    if known != DECISIONS:
        raise CircuitError("changed from here on")


def state_file(folder: Path) -> StateFile:
    return StateFile(folder / "train.state", {"seed": 0}, 1)


def write_state(folder: Path) -> None:
    tensors = dict(random_model(1, dtype=torch.float32).state_dict())
    state_file(folder).save(State(tensors=tensors, numbers={"step": 3, "best": 0.5}))


MEASURED = Measurements(key={"machine": "x"}, speedups={"[[1]]": [1.5, 1.6]})


def read_measurements(folder: Path) -> None:
    """Times that are changed are not used."""
    found = Measurements.read(folder / "latency.json")
    assert found in (MEASURED, Measurements())
    if found != MEASURED:
        raise MeasurementError("changed")


def read_image(kind: str) -> Reader:
    return Reader(
        f"image, {kind}",
        lambda folder: (folder / "image").write_bytes(image_bytes(1, format=kind)),
        lambda folder: decode((folder / "image").read_bytes(), 3),
    )


READERS = [
    Reader("params", write_params, lambda folder: load_params(folder / "params.yaml")),
    Reader("profile", write_profile, lambda folder: apply_profile(folder / "params.yaml", folder / "profile.yaml")),
    Reader("model", write_model, lambda folder: load_model(folder / "model"), is_ours=True),
    Reader("circuit", write_circuit, lambda folder: Circuit.load(folder / "circuit"), is_ours=True),
    Reader("packed data", write_data, lambda folder: load_packed(folder / "clean"), is_ours=True),
    Reader("journal", write_journal, read_journal),
    Reader("state of a training", write_state, lambda folder: state_file(folder).load(), is_ours=True),
    Reader("kept times", lambda folder: MEASURED.write(folder / "latency.json"), read_measurements),
    Reader("raw folder", write_raw, lambda folder: read_source(folder / "raw", data_params()), is_ours=True),
    Reader(
        "zip",
        lambda folder: write_zip(folder / "images.zip", class_folders(count=2)),
        lambda folder: read_archive(folder / "images.zip"),
    ),
    Reader(
        "tar",
        lambda folder: write_tar(folder / "images.tar", class_folders(count=2)),
        lambda folder: read_archive(folder / "images.tar"),
    ),
    Reader(
        "tar.gz",
        lambda folder: write_tar(folder / "images.tar.gz", class_folders(count=2), mode="w:gz"),
        lambda folder: read_archive(folder / "images.tar.gz"),
    ),
    Reader(
        "idx",
        lambda folder: write_idx(folder / "images.gz", np.zeros((3, 4, 4), np.uint8)),
        lambda folder: read_idx(folder / "images.gz", "images"),
    ),
    Reader(
        "unpacked idx",
        lambda folder: (folder / "idx").write_bytes(
            gzip.decompress(write_idx(folder / "x.gz", np.zeros((3, 4, 4), np.uint8)).read_bytes())
        ),
        lambda folder: read_idx_anew(folder / "idx"),
    ),
    *map(read_image, ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")),
    Reader(
        "weights, safetensors",
        lambda folder: save_file({"a": torch.zeros(3), "b": torch.ones(2, 2)}, folder / "weights.safetensors"),
        lambda folder: read_weights(folder / "weights.safetensors"),
    ),
    Reader(
        "weights, PyTorch",
        lambda folder: torch.save({"model": {"a": torch.zeros(3), "b": torch.ones(2, 2)}}, folder / "weights.pth"),
        lambda folder: read_weights(folder / "weights.pth"),
    ),
    Reader("experiments", write_experiments, lambda folder: read_experiments(folder / "experiments.csv", 1)),
    Reader(
        "JSON",
        lambda folder: (folder / "metrics.json").write_bytes((ROOT / "metrics" / "evaluate.json").read_bytes()),
        lambda folder: read_json(folder / "metrics.json"),
    ),
]


def read_idx_anew(path: Path) -> object:
    """Mutations of a compressed file hardly ever reach what is in it."""
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    try:
        return read_idx(packed, "images")
    finally:
        packed.unlink()
