"""The commands that use a finished model: show, predict, benchmark, export."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.circuit.oracle import random_model
from tests.run_command import assert_one_sentence, run_command
from vitprune.core.model import Preprocessing, SavedModel, load_model, save_model
from vitprune.data.cleaning.decoding import decode
from vitprune.data.cleaning.images import to_square

ROOT = Path(__file__).parents[2]
CLASSES = ("ankle boot", "bag", "coat")


def save(folder, **shape):
    model = random_model(2, dtype=torch.float32, num_layers=2, scale=5.0, **shape)
    preprocessing = Preprocessing(mean=(0.4,), std=(0.3,))
    save_model(folder, SavedModel(model=model, preprocessing=preprocessing, class_names=CLASSES, resize="crop"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("use")
    save(folder / "whole")
    save(folder / "pruned", heads_per_layer=(1, 0), neurons_per_layer=(0, 5), token_biases=True)
    save(folder / "larger", image_size=8)
    rng = np.random.default_rng(0)
    (folder / "images" / "deep").mkdir(parents=True)
    for number, size in enumerate([(4, 4), (9, 5), (6, 6)]):
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(folder / "images" / "deep" / f"{number}.png")
    (folder / "images" / "notes.txt").write_text("no image")
    return folder


def test_show_says_what_is_left_of_each_layer(workplace):
    done = run_command("show", "pruned", folder=workplace)
    assert done.returncode == 0, done.stderr
    for part in ("1 of 2", "0 of 12", "5 of 12", "1 of 4", "5 of 24", "3 classes", "multiply-adds"):
        assert part in " ".join(done.stdout.split())
    found = json.loads(run_command("show", "pruned", "--json", folder=workplace).stdout)
    assert found["layers"] == [{"heads": 1, "neurons": 0}, {"heads": 0, "neurons": 5}]
    assert found["multiply_adds"] < found["multiply_adds_before"]


def test_predictions_are_those_of_the_model_on_the_images_as_clean_makes_them(workplace):
    done = run_command("predict", "whole", "images", "--csv", "predictions.csv", "--top", "2", folder=workplace)
    assert done.returncode == 0, done.stderr
    with (workplace / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert [row["rank"] for row in predictions] == ["1", "2"] * 3
    saved = load_model(workplace / "whole")
    for number in range(3):
        path = workplace / "images" / "deep" / f"{number}.png"
        pixels = torch.tensor(to_square(decode(path.read_bytes(), 1).pixels, 4, "crop"))[None]
        probabilities = saved.model(saved.preprocessing(pixels)).softmax(1)[0].detach()
        best = int(probabilities.argmax())
        first = predictions[2 * number]
        assert first["path"] == f"images/deep/{number}.png"
        assert first["class_name"] == CLASSES[best]
        assert float(first["probability"]) == pytest.approx(float(probabilities[best]), abs=1e-5)


@pytest.mark.fault(
    "names of images with line ends or broken bytes, given to predict", "readable escapes in table and CSV"
)
def test_names_that_cannot_be_shown_are_predicted_with_escapes(workplace):
    odd = workplace / "odd"
    odd.mkdir()
    for name in ("two\nlines.png", os.fsdecode(b"caf\xe9.png")):
        shutil.copy(workplace / "images/deep/0.png", odd / name)
    done = run_command("predict", "whole", "odd", "--top", "1", folder=workplace)
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9.png" in done.stdout
    done = run_command("predict", "whole", "odd", "--top", "1", "--csv", "odd.csv", folder=workplace)
    assert done.returncode == 0, done.stderr
    with (workplace / "odd.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == {"odd/two\\nlines.png", "odd/caf\\udce9.png"}


def test_predictions_are_printed_with_their_probabilities(workplace):
    done = run_command("predict", "whole", "images/deep/0.png", folder=workplace)
    assert "images/deep/0.png" in done.stdout
    assert done.stdout.count("%") == 3


def probabilities_in(file):
    with file.open() as lines:
        return [float(row["probability"]) for row in csv.DictReader(lines)]


@pytest.mark.fault("images are predicted that became square in another way in training", "predict does as training did")
def test_images_are_made_square_as_in_training(workplace):
    saved = load_model(workplace / "whole")
    save_model(workplace / "stretched", replace(saved, resize="stretch"))
    save_model(workplace / "old", replace(saved, resize=None))
    found, said = {}, {}
    for model, *more in (["whole"], ["stretched"], ["old"], ["whole", "--resize", "stretch"]):
        done = run_command("predict", model, "images/deep/1.png", "--csv", "p.csv", *more, folder=workplace)
        assert done.returncode == 0, done.stderr
        found[model, *more] = probabilities_in(workplace / "p.csv")
        said[model, *more] = done.stderr
    assert found["whole",] == found["old",] != found["stretched",] == found["whole", "--resize", "stretch"]
    assert said["old",] == "old does not say how its training images became square: --resize crop is assumed\n"
    assert said["whole",] == said["stretched",] == ""


@pytest.mark.fault("some of the files to predict are no images", "the others are predicted, the bad ones named")
def test_prediction_goes_on_at_bad_files_and_names_them(workplace):
    for name in ("a.png", "b.png"):
        (workplace / name).write_text("no image")
    files = ["a.png", "images/deep/0.png", "b.png", "images/deep/1.png"]
    done = run_command("predict", "whole", *files, folder=workplace)
    assert done.returncode == 1
    assert done.stdout.count("images/deep") == 2
    first, last = done.stderr.splitlines()
    assert first.startswith("a.png: not an image that can be decoded; leave it out (not an image file")
    assert last.startswith("error: b.png: not an image")
    assert last.endswith("(2 of 4 files were left out)")
    done = run_command("predict", "whole", *files, "--top", "1", "--csv", "some.csv", folder=workplace)
    assert done.returncode == 1
    assert len(probabilities_in(workplace / "some.csv")) == 2


@pytest.mark.fault("brackets, colons and escapes in names of files and classes", "they are printed as they are")
def test_names_are_printed_as_they_are(workplace):
    saved = load_model(workplace / "whole")
    names = ("[unknown]", ":smile:", "[/bold]\x1b[31m")
    save_model(workplace / "[red]model", replace(saved, class_names=names))
    shutil.copy(workplace / "images/deep/0.png", workplace / "photo [copy].png")
    done = run_command("predict", "[red]model", "photo [copy].png", folder=workplace)
    assert done.returncode == 0, done.stderr
    for part in ("photo [copy].png", "[unknown]", ":smile:", "[/bold]\\x1b[31m"):
        assert part in done.stdout
    assert_one_sentence(run_command("show", "[/red]none", folder=workplace), "[/red]none/config.json")


@pytest.mark.slow
@pytest.mark.fault("stdout is not in UTF-8", "what it cannot show is escaped")
def test_a_stream_of_another_encoding_gets_escapes(workplace):
    command = [sys.executable, "-m", "vitprune", "show", "pruned"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, check=True)
    assert b"1 of 2" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.slow
@pytest.mark.fault("the reader of stdout goes away", "no traceback")
def test_a_closed_pipe_is_no_traceback(workplace):
    command = f"{sys.executable} -m vitprune show pruned | true"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], cwd=workplace, env=environment, capture_output=True)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "whole", "images/notes.txt"], "images/notes.txt: not an image that can be decoded; leave it out"),
        (["predict", "whole", "none"], "none: no such file or folder"),
        (["predict", "whole", "whole"], "no image files in whole"),
        (["show", "none"], "none/config.json"),
        (["export", "none", "--out", "x.onnx"], "none/config.json"),
        (["benchmark", "whole", "larger", "--rounds", "5"], "larger takes images of shape (1, 8, 8)"),
        (["benchmark", "whole", "--rounds", "2"], "would not give a figure to trust"),
        (["pareto", "none.csv"], "none.csv: not readable as CSV"),
        (["pareto", "none.csv", "--out", "plot.csv"], "plot.csv: is where the figures go as CSV"),
    ],
)
def test_bad_input_is_one_sentence_and_status_1(workplace, arguments, message):
    assert_one_sentence(run_command(*arguments, folder=workplace), message)


@pytest.mark.slow
def test_models_are_timed_in_every_way_against_the_first(workplace):
    exported = run_command("export", "pruned", "--out", "pruned.onnx", folder=workplace)
    assert exported.returncode == 0, exported.stderr
    ways = ["--batch-size", "2", "--rounds", "5", "--warmup", "1", "--threads", "1", "--json", "times.json"]
    models = ["whole", "pruned.onnx", "--simplify", "--onnx", "--device", "cpu"]
    done = run_command("benchmark", *models, *ways, folder=workplace)
    assert done.returncode == 0, done.stderr
    times = json.loads((workplace / "times.json").read_text())
    entries = ["whole", "whole, simplified", "whole, ONNX", "pruned.onnx"]
    assert list(times) == [*entries, "machine", "rounds", "warmup"]
    assert all(list(times[name]) == ["batch_2"] for name in entries)
    assert times["whole"]["batch_2"]["speedup"] == 1.0
    assert times["machine"]["threads"] == 1
