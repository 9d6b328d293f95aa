"""The whole pipeline on images that are not in the repository."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

CLASSES = {"n01443537": "goldfish, Carassius auratus", "n01629819": "European fire salamander", "n01641577": "bullfrog"}
FASHION_MNIST = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


def photograph(label, number, mode="RGB", size=64):
    """A made-up picture whose class can be seen: stripes of a direction and colour of its own, and noise."""
    rng = np.random.default_rng(1000 * label + number)
    row, column = np.mgrid[:size, :size]
    stripes = 128 + 80 * np.sin((row if label % 2 else column) / (2 + label) + rng.uniform(0, 6))
    colour = np.array([[1, 0.4, 0.2], [0.2, 1, 0.4], [0.3, 0.5, 1]])[label % 3]
    pixels = stripes[..., None] * colour + rng.normal(0, 20, (size, size, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture
def tiny_imagenet(tmp_path):
    """A folder laid out as Kaggle's cleaned Tiny-ImageNet, with what goes wrong in real ones."""
    root = tmp_path / "download" / "tiny-imagenet-200"
    for label, wnid in enumerate(CLASSES):
        for start, split, count in ((0, "train", 30), (100, "val", 6), (200, "test", 8)):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for number in range(start, start + count):
                (folder / f"{wnid}_{number}.JPEG").write_bytes(photograph(label, number))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("n0_0.JPEG\t0\t0\t62\t57\n")
    first = root / "train" / "n01443537"
    (first / "truncated.JPEG").write_bytes(photograph(0, 300)[:700])
    (first / "grey.JPEG").write_bytes(photograph(0, 301, "L"))
    (first / "cmyk.JPEG").write_bytes(photograph(0, 302, "CMYK"))
    (first / "leaked.JPEG").write_bytes((root / "test" / "n01443537" / "n01443537_200.JPEG").read_bytes())
    (first / "notes.txt").write_text("taken in spring\n")
    for split in ("train", "val", "test"):
        (root / split / "n02999999").mkdir()
    (root / "wnids.txt").write_text("\n".join([*CLASSES, "n02999999"]))
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in CLASSES.items()))
    return tmp_path / "download"


def test_the_kaggle_layout_with_its_faults_goes_through_the_whole_pipeline(workspace, tiny_imagenet):
    workspace.set_params(
        {
            "data.source": "folder",
            "data.path": str(tiny_imagenet),
            "data.image_size": 64,
            "data.channels": 3,
            "model.patch_size": 16,
            "model.patch_embedding": "conv",
            "model.positions": "sincos",
            "model.pooling": "mean",
        }
    )
    workspace.run("dvc", "repro")
    cleaned = json.loads((workspace.folder / "metrics/clean.json").read_text())
    assert cleaned["images"] == {"train": 3 * 30 + 2, "val": 18, "test": 24}
    assert cleaned["classes"] == 3
    with (workspace.folder / "data/clean/manifest.csv").open(newline="") as file:
        by_name = {Path(row["name"]).name: row for row in csv.DictReader(file)}
    assert by_name["grey.JPEG"]["action"] == by_name["cmyk.JPEG"]["action"] == "kept"
    assert by_name["truncated.JPEG"]["action"] == by_name["leaked.JPEG"]["action"] == "dropped"
    assert by_name["notes.txt"]["action"] == by_name["n01443537_boxes.txt"]["action"] == "ignored"
    evaluated = json.loads((workspace.folder / "metrics/evaluate.json").read_text())
    assert evaluated["test_images"] == 24
    assert evaluated["baseline"]["accuracy"] > 0.6
    names = json.loads((workspace.folder / "models/finetuned/pruned/config.json").read_text())["class_names"]
    assert names == ["goldfish", "European fire salamander", "bullfrog"]
    assert "bullfrog" in (workspace.folder / "data/clean/dataset.json").read_text()


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs the files of Debian's package dataset-fashion-mnist")
def test_fashion_mnist_goes_through_the_whole_pipeline(workspace):
    workspace.set_params(
        {
            "data.source": "fashion-mnist",
            "data.path": str(FASHION_MNIST),
            "data.image_size": 28,
            # Most images only validate: that takes less time than training on them.
            "clean.val_fraction": 0.7,
            "model.patch_size": 7,
            "model.patch_embedding": "shifted",
            "train.epochs": 1,
            "train.warmup_epochs": 0.1,
            "train.batch_size": 64,
        }
    )
    workspace.run("dvc", "repro")
    evaluated = json.loads((workspace.folder / "metrics/evaluate.json").read_text())
    assert evaluated["test_images"] == 10_000
    assert evaluated["upgraded_baseline"]["accuracy"] > 0.6
