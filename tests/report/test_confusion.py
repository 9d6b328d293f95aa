import numpy as np
import pytest
import torch
from PIL import Image

from vitprune.report.confusion import confusion_matrix, draw_confusion, most_confused, write_confusion

LABELS = np.array([0, 0, 0, 1, 1, 2])
LOGITS = torch.eye(3)[[0, 1, 1, 1, 0, 2]]


def test_rows_are_true_classes_and_columns_predicted_ones():
    assert confusion_matrix(LOGITS, LABELS).tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]


def test_a_class_that_no_image_has_and_no_model_predicts_keeps_its_place():
    assert confusion_matrix(torch.eye(4)[[0, 3]], np.array([0, 3])).tolist() == np.diag([1, 0, 0, 1]).tolist()


def test_the_commonest_mistakes_come_first_with_their_share():
    pairs = most_confused(confusion_matrix(LOGITS, LABELS), ("cat", "dog", "emu"))
    assert [(pair.actual, pair.predicted, pair.count) for pair in pairs] == [("cat", "dog", 2), ("dog", "cat", 1)]
    assert [pair.share for pair in pairs] == [2 / 3, 1 / 2]


def test_a_perfect_model_makes_no_mistakes():
    assert most_confused(np.eye(3, dtype=np.int64), ("a", "b", "c")) == []


@pytest.mark.parametrize("classes", [2, 30, 200])
def test_the_plot_is_readable_and_the_same_each_time(tmp_path, classes):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 3, (classes, classes)) + 20 * np.eye(classes, dtype=np.int64)
    names = tuple(f"class {number}" for number in range(classes))
    for name in ("a.png", "b.png"):
        draw_confusion(tmp_path / name, matrix, names)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 300
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_a_class_without_images_does_not_divide_by_zero(tmp_path):
    draw_confusion(tmp_path / "a.png", np.array([[3, 1], [0, 0]]), ("a", "b"))
    assert (tmp_path / "a.png").stat().st_size > 0


def test_pairs_are_written_with_the_names_of_their_classes(tmp_path):
    pairs = most_confused(np.array([[3, 1], [0, 4]]), ("cat, domestic", "dog"))
    write_confusion(tmp_path / "pairs.csv", pairs)
    assert (tmp_path / "pairs.csv").read_text() == ('actual,predicted,count,share\n"cat, domestic",dog,1,0.2500\n')
