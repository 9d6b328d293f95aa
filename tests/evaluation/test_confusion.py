import numpy as np
import torch

from vitprune.evaluation.confusion import confusion_matrix, most_confused

LABELS = np.array([0, 0, 0, 1, 1, 2])
LOGITS = torch.eye(3)[[0, 1, 1, 1, 0, 2]]


def test_rows_are_true_classes_and_columns_predicted_ones():
    assert confusion_matrix(LOGITS, LABELS).tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]


def test_the_commonest_mistakes_come_first_with_their_share():
    pairs = most_confused(confusion_matrix(LOGITS, LABELS), ("cat", "dog", "emu"))
    assert [(pair.actual, pair.predicted, pair.count) for pair in pairs] == [("cat", "dog", 2), ("dog", "cat", 1)]
    assert [pair.share for pair in pairs] == [2 / 3, 1 / 2]


def test_a_perfect_model_makes_no_mistakes():
    assert most_confused(np.eye(3, dtype=np.int64), ("a", "b", "c")) == []
