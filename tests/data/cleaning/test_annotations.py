"""Text files that name classes, and what contradicts them."""

import pytest

from tests.data.cleaning.test_layout import layout, placed
from vitprune.errors import DataError

FILES = ("train/a/1.png", "train/b/2.png", "val/images/1.png", "val/images/2.png", "val/val_annotations.txt")
REFUSED = "one sentence names both, and nothing is guessed"


def val_classes(annotations: str, *files: str) -> dict[str, str]:
    found = layout(*FILES, *files, texts={"val/val_annotations.txt": annotations})
    return {name: folder for name, split, folder in placed(found) if split == "val"}


@pytest.mark.fault("two lines of val_annotations.txt that give one file two classes", REFUSED)
def test_two_classes_for_one_file_are_refused() -> None:
    with pytest.raises(DataError, match=r"val_annotations\.txt: '1\.png' has two classes, 'a' and 'b'; leave one line"):
        val_classes("1.png\ta\n2.png\tb\n1.png\tb\n")
    assert val_classes("1.png\ta\n2.png\tb\n1.png\ta\t0\t0\n") == {"1.png": "a", "2.png": "b"}


@pytest.mark.fault("annotations of files that are not there", "the log says how many, and names one")
def test_annotated_files_that_are_not_there_are_named(caplog) -> None:
    assert val_classes("1.png\ta\n2.png\tb\ngone.png\tb\nlost.png\ta\n") == {"1.png": "a", "2.png": "b"}
    assert "val/val_annotations.txt names files that are not there: 2, such as gone.png" in caplog.text


@pytest.mark.fault("an image in one class folder that the annotations put into another class", REFUSED)
def test_annotations_that_contradict_the_class_folders_are_refused() -> None:
    files = ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "val/val_annotations.txt")
    assert placed(layout(*files, texts={files[-1]: "3.png\ta\n4.png\tb\n"}))[-1] == ("4.png", "val", "b")
    with pytest.raises(DataError, match=r"says 'b' of val/a/3\.png, which lies in the class folder 'a'"):
        layout(*files, texts={files[-1]: "3.png\tb\n4.png\tb\n"})
    # Names that stand in several class folders, and columns that are no classes, say nothing.
    same = ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/3.png", "val/val_annotations.txt")
    assert len(layout(*same, texts={same[-1]: "3.png\ta\n"}).images) == 4
    assert len(layout(*files, texts={files[-1]: "3.png\t17\n4.png\t18\n"}).images) == 4


@pytest.mark.fault("two annotation files for one split", REFUSED)
def test_two_annotation_files_for_one_split_are_refused() -> None:
    with pytest.raises(DataError, match=r"val/other_annotations\.txt and val/val_annotations\.txt both annotate"):
        layout(*FILES, texts={FILES[-1]: "1.png\ta\n2.png\tb\n", "val/other_annotations.txt": "1.png\tb\n2.png\tb\n"})


@pytest.mark.fault("an id with two names in words.txt", REFUSED)
def test_two_names_for_one_id_are_refused() -> None:
    files = ("n1/1.png", "n2/1.png")
    same = layout(*files, texts={"words.txt": "n1\tcrane, bird\nn2\ttoad\nn1\tcrane\n"})
    assert list(same.class_names.values()) == ["crane", "toad"]
    with pytest.raises(DataError, match=r"words\.txt: 'n1' has two names, 'crane' and 'heron'; leave one line"):
        layout(*files, texts={"words.txt": "n1\tcrane\nn1\theron\n"})


def test_lines_may_end_as_on_any_system() -> None:
    for end in ("\n", "\r\n", "\r"):
        assert val_classes(f"\ufeff1.png\ta{end}2.png\tb{end}{end}") == {"1.png": "a", "2.png": "b"}


def test_annotations_may_lie_beside_the_images() -> None:
    files = (*FILES[:-1], "val/images/val_annotations.txt")
    assert placed(layout(*files, texts={files[-1]: "1.png\tb\n2.png\ta\n"}))[2:] == [
        ("1.png", "val", "b"),
        ("2.png", "val", "a"),
    ]
