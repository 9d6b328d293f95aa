"""Which folders are splits and which are classes, by their names and by what they hold."""

from itertools import product

import pytest

from tests.data.cleaning.test_layout import layout, placed
from vitprune.data.cleaning.layout import find_layout
from vitprune.data.cleaning.split_names import read_split
from vitprune.errors import DataError

NEVER_CLASSES = "splits become splits, and never classes"


def splits(*names: str, classes: tuple[str, ...] = ("a", "b")) -> list[str]:
    return [f"{name}/{folder}/{number}.png" for number, (name, folder) in enumerate(product(names, classes))]


def splits_found(*files: str) -> dict[str, set[str]]:
    """The class folders of each split."""
    found: dict[str, set[str]] = {}
    for _, split, folder in placed(layout(*files)):
        found.setdefault(split, set()).add(folder)
    return found


@pytest.mark.fault("split folders with unusual names, such as seg_train or train2017", NEVER_CLASSES)
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("seg_train", "seg_val", "seg_test"),
        ("training_set", "validation_set", "test_set"),
        ("train2017", "val2017", "test2017"),
        ("TrainingData", "ValidationData", "TestingData"),
        ("trainset", "valset", "testset"),
        ("Training Images", "valid.images", "test-images"),
        ("asl_alphabet_train", "asl_alphabet_dev", "asl_alphabet_test"),
        ("01_train", "02_val", "03_test"),
        ("TRAIN", "DEV", "TEST"),
        ("train_val", "eval", "test"),
        ("training", "validation", "evaluation"),
    ],
)
def test_split_words_are_understood_inside_names(train: str, val: str, test: str) -> None:
    both = {"a", "b"}
    assert splits_found(*splits(train, val, test)) == {"train": both, "val": both, "test": both}
    doubled = [f"data/{name.split('/')[0]}/{name}" for name in splits(train, val, test)]
    assert splits_found(*doubled) == {"train": both, "val": both, "test": both}


@pytest.mark.fault("an unlabelled seg_pred folder beside the splits", "it is left out, and the log and manifest say so")
@pytest.mark.parametrize(
    "unlabelled", ["seg_pred/seg_pred/1.jpg", "seg_pred/1.jpg", "unlabeled2017/1.jpg", "test of many fruits/1.jpg"]
)
def test_unlabelled_folders_are_left_out_and_named(unlabelled: str, caplog) -> None:
    found = layout(*splits("seg_train/seg_train", "seg_test/seg_test"), unlabelled)
    assert set(found.class_names) == {"a", "b"}
    assert {image.split for image in found.images} == {"train", "test"}
    assert [(file.name, file.reason) for file in found.ignored] == [(unlabelled, "no label")]
    assert f"{unlabelled.rsplit('/', 1)[0]}: left out, because its images (1) have no labels" in caplog.text


@pytest.mark.fault("a split folder without any file", "the log names it")
def test_an_empty_split_folder_is_named(caplog) -> None:
    found = layout(*splits("data/train"), folders=("data", "data/train", "data/test", "data/train/c"))
    assert {image.split for image in found.images} == {"train"}
    assert found.empty_folders == ("c",)
    assert [record.getMessage() for record in caplog.records] == ["data/test: holds no images, and is left out"]


def test_a_test_folder_of_loose_images_is_left_out_whatever_its_name(caplog) -> None:
    found = layout(*splits("asl_train"), "asl_test/asl_test/A_test.jpg", "asl_test/asl_test/B_test.jpg")
    assert splits_found(*splits("asl_train"), "asl_test/asl_test/A_test.jpg") == {"train": {"a", "b"}}
    assert len(found.ignored) == 2
    assert "asl_test/asl_test: left out, because its images (2) have no labels" in caplog.text


@pytest.mark.fault("classes whose names sound like splits (train, test tube, dev board)", "they stay classes")
@pytest.mark.parametrize(
    "classes",
    [
        ("train", "car", "bus"),
        ("test tube", "beaker", "flask"),
        ("test tube", "valid coupon"),
        ("trainer", "protest", "evaluation board"),
        ("valid", "invalid"),
        ("test", "control"),
        ("train", "dev", "car"),
        ("train", "TGV"),
    ],
)
def test_classes_may_sound_like_splits(classes: tuple[str, ...]) -> None:
    assert set(layout(*(f"{name}/1.png" for name in classes)).class_names) == set(classes)
    own_folders = [f"{name}/images/1.png" for name in classes]
    assert set(layout(*own_folders).class_names) == set(classes)
    inside = [f"{split}/{name}/1.png" for split in ("train", "test") for name in classes]
    assert set(layout(*inside).class_names) == set(classes)
    assert {split for _, split, _ in placed(layout(*inside))} == {"train", "test"}


def test_a_class_may_hold_a_folder_that_sounds_like_a_split() -> None:
    vehicles = ["wheels/bus/1.png", "wheels/train/2.png", "wings/jet/3.png", "wings/glider/4.png"]
    assert set(layout(*vehicles).class_names) == {"wheels", "wings"}


def test_evaluation_is_the_split_that_is_missing() -> None:
    assert splits_found(*splits("train", "evaluation")).keys() == {"train", "test"}
    assert splits_found(*splits("train", "eval", "test")).keys() == {"train", "val", "test"}
    assert splits_found(*splits("train", "val", "eval")).keys() == {"train", "val", "test"}


def test_a_common_folder_may_sound_like_a_split() -> None:
    found = splits_found(*(f"training_data/{name}" for name in splits("train", "test")))
    assert found == {"train": {"a", "b"}, "test": {"a", "b"}}
    assert splits_found(*(f"train_test_split/{name}" for name in splits("train", "test"))) == found


@pytest.mark.fault("folders that could be splits or classes", "one sentence says what is wrong, and nothing is guessed")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (splits("holdin", "holdout"), "folders 'holdout' and 'holdin' hold the same folders ('a', 'b')"),
        (splits("fold1", "fold2", "fold3", classes=("a", "b", "c")), "hold the same folders"),
        (splits("train", "holdout"), "folders 'holdout' and 'train' hold the same folders ('a', 'b')"),
        (splits("train", "test", "seg_pred"), "folders 'seg_pred' and 'train' hold the same folders ('a', 'b')"),
        (splits("train", "train_extra"), "folders 'train', 'train_extra' are all the train split"),
        ([*splits("train", "test"), "train_extra/9.png"], "train_extra/9.png lies outside the splits 'test', 'train'"),
        ([*splits("train", "test"), "metadata/9.png"], "metadata/9.png lies outside the splits 'test', 'train'"),
        ([*splits("train"), "car/9.png"], "rename 'train' if it is a class"),
        ([*splits("train"), "val/8.png", "test/9.png"], "val/8.png lies without class folders"),
        (["seg_train/1.png", "seg_test/2.png", "seg_pred/3.png"], "no train folder with class folders"),
        (["train/1.png", "test/2.png", "sample/3.png"], "no train folder with class folders"),
        (["training_set/1.png", "test_set/2.png"], "no train folder with class folders"),
        (["cats/train_set/1.png", "cats/test_set/2.png", "dogs/train_set/3.png"], "in a split folder"),
        ([*(f"x/{name}" for name in splits("train", "test")), "y/9.png"], "in a split folder"),
        (splits("training_data/train", "training_data/test", "extra"), "in a split folder"),
        ([*splits("train"), "test tube/9.png"], "test tube/9.png lies outside the splits 'train'"),
        (splits("images_background") + splits("images_evaluation", classes=("c", "d")), "no train folder with class"),
        (["train_cats/1.png", "train_dogs/2.png", "test_cats/3.png"], "no train folder with class folders"),
        (["train/a/1.png", "train/b/test/2.png", "test/a/3.png", "test/b/4.png"], "in a split folder"),
    ],
)
def test_what_could_be_splits_or_classes_is_refused(files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=r"expected are class folders|leave one of them") as raised:
        layout(*files)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_words_count_as_whole_words_only() -> None:
    for name in ("trainer", "protest", "contest", "evaluator", "devil", "valley", "invalid", "intestine", "restrain"):
        assert read_split(name) is None
    assert read_split("train_test_split") is None
    words = {name: label.word for name in ("SegTest", "val-1", "my.train.set") if (label := read_split(name))}
    assert words == {"SegTest": "test", "val-1": "val", "my.train.set": "train"}


def test_unusual_names_of_splits_are_said(caplog) -> None:
    caplog.set_level("INFO", "vitprune")
    find_layout(splits("seg_train", "seg_test"), (), {})
    assert "splits: seg_test is test, seg_train is train" in caplog.text


def test_classes_may_share_some_of_their_folders() -> None:
    people = {"happy": ("ann", "bob", "carla", "dan", "eve"), "sad": ("bob", "carla", "fay", "gus", "hal")}
    files = [f"{mood}/{person}/1.png" for mood, names in people.items() for person in names]
    assert set(layout(*files).class_names) == {"happy", "sad"}
