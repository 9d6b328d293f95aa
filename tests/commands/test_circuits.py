"""The commands about circuits: acdc for a question, stability, compare, importance."""

import csv
import json
import shutil

import pytest
import yaml

from tests.faults.test_inputs import made_once  # noqa: F401
from tests.run_command import assert_one_sentence, run_command, run_stage

QUICK = {
    "mlp_groups": 2,
    "num_images": 32,
    "num_reference_images": 64,
    "granularity": "node",
    "tau": 1e-9,
    "bootstrap_samples": 2,
}


def ask(folder, **changes):
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["acdc"] |= changes
    path.write_text(yaml.safe_dump(params))


@pytest.fixture(scope="module")
def asked(made_once, tmp_path_factory):  # noqa: F811
    """A project with a circuit for telling 3 from 8, of a model that was not trained."""
    folder = shutil.copytree(made_once, tmp_path_factory.mktemp("circuits") / "project")
    ask(folder, **QUICK, classes=["3", 8], metric="logit-difference")
    done = run_stage("acdc", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_circuit_for_two_classes_is_measured_on_them(asked):
    metrics = json.loads((asked / "metrics/acdc.json").read_text())
    assert metrics["search_images"] == 32
    labels = list(csv.DictReader((asked / "data/clean/manifest.csv").read_text().splitlines()))
    held_out = sum(row["action"] == "kept" and row["split"] == "val" and row["class"] in "38" for row in labels)
    assert metrics["faithfulness"]["images"] == held_out
    assert metrics["stability"]["samples"] == 2
    header, *rows = csv.reader((asked / "plots/stability.csv").read_text().splitlines())
    assert header == ["sender", "receiver", "frequency", "verdict", "in_circuit"]
    assert rows
    assert (asked / "plots/stability.png").stat().st_size > 10_000


def test_stability_repeats_the_search_as_often_as_asked(asked):
    done = run_command("stability", "--samples", "3", folder=asked)
    assert done.returncode == 0, done.stderr
    assert "on 3 bootstrap samples of the images" in " ".join(done.stderr.split())
    assert json.loads((asked / "reports/stability.json").read_text())["samples"] == 3
    assert (asked / "reports/stability.png").is_file()
    assert_one_sentence(
        run_command("stability", "--out", "reports/stability.png", folder=asked), "is where the picture goes"
    )


@pytest.mark.fault("params of another search than that of the circuit", "stability names the first that differs")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 0.5}, "was found with acdc.tau 1e-09, but params say 0.5"),
        ({"mlp_groups": 4}, "was found with acdc.mlp_groups 2, but params say 4"),
        ({"direction": "both"}, "was found with acdc.direction noising, but params say denoising and noising"),
        ({"method": "eap-ig"}, "was found with acdc.method acdc-node, but params say eap-ig"),
    ],
)
def test_the_stability_of_a_circuit_is_that_of_its_own_search(asked, tmp_path, changes, message):
    folder = shutil.copytree(asked, tmp_path / "project")
    ask(folder, **changes)
    assert_one_sentence(run_command("stability", folder=folder), message)


def test_images_that_a_file_names_are_searched_and_circuits_compared(asked, tmp_path):
    folder = shutil.copytree(asked, tmp_path / "project")
    shutil.copytree(folder / "models/circuit", folder / "three-or-eight")
    rows = list(csv.DictReader((folder / "data/clean/manifest.csv").read_text().splitlines()))
    names = [row["name"] for row in rows if row["action"] == "kept" and row["split"] == "train"][:7]
    (folder / "chosen.csv").write_text("name,why\n" + "".join(f"{name},odd\n" for name in names))
    ask(folder, classes=None, images="chosen.csv", metric="kl")
    done = run_stage("acdc", folder)
    assert done.returncode == 0, done.stderr
    assert "acdc.images: DVC does not watch chosen.csv" in " ".join(done.stderr.split())
    assert json.loads((folder / "metrics/acdc.json").read_text())["search_images"] == 7

    done = run_command("compare", "three-or-eight", "models/circuit", "--out", "edges.csv", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Jaccard index" in done.stdout
    assert len(list(csv.DictReader((folder / "edges.csv").read_text().splitlines()))) > 0

    (folder / "chosen.csv").write_text(f"name\n{names[0]}\n")
    done = run_command("importance", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "models/circuit: was made from acdc.images (chosen.csv) as it was" in " ".join(done.stderr.split())


@pytest.mark.fault("a file of image names that names none, or what is no training image", "the file and the name")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image\na\n", "has no column name"),
        (b"name\nnowhere.png\n", "names 'nowhere.png', which is no training image"),
        (b"name\n", "names no image"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_names_that_says_nothing_is_refused(asked, tmp_path, content, message):
    folder = shutil.copytree(asked, tmp_path / "project")
    if content is not None:
        (folder / "chosen.csv").write_bytes(content)
    ask(folder, classes=None, images="chosen.csv")
    before = (folder / "models/circuit/circuit.json").read_bytes()
    assert_one_sentence(run_stage("acdc", folder), "acdc.images: chosen.csv", message)
    assert (folder / "models/circuit/circuit.json").read_bytes() == before


@pytest.mark.fault("classes that the data do not have, or classes and images at once", "the key and the name")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["ten"]}, "acdc.classes: 'ten' is not a class of the data"),
        ({"classes": [3, "3"]}, "acdc.classes names 3 twice"),
        ({"classes": [3], "images": "chosen.csv"}, "exclude each other"),
        ({"classes": []}, "acdc.classes"),
        ({"bootstrap_samples": 1}, "acdc.bootstrap_samples"),
        ({"direction": "up"}, "acdc.direction"),
        ({"method": "eap-ig", "direction": "both"}, "acdc.direction both is for acdc.method acdc"),
    ],
)
def test_a_question_that_cannot_be_put_is_refused(asked, tmp_path, changes, message):
    folder = shutil.copytree(asked, tmp_path / "project")
    ask(folder, **changes)
    assert_one_sentence(run_stage("acdc", folder), message)


def test_scores_go_out_and_come_back(asked):
    done = run_command("importance", "--out", "scores.json", "--metrics", "own.json", folder=asked)
    assert done.returncode == 0, done.stderr
    assert "CPR" in done.stdout
    done = run_command("importance", "scores.json", "--metrics", "again.json", folder=asked)
    assert done.returncode == 0, done.stderr
    stage = json.loads((asked / "metrics/acdc.json").read_text())["faithfulness"]["common_scale"]["found"]
    own, again = (json.loads((asked / name).read_text()) for name in ("own.json", "again.json"))
    assert own == again
    assert {name: own[name] for name in ("cpr", "cmd")} == pytest.approx(stage)
    assert [point["share"] for point in own["curve"]][:2] == [0.001, 0.002]
    assert_one_sentence(run_command("importance", "params.yaml", folder=asked), "params.yaml: is not a file of scores")
