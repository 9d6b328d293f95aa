from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.training.conftest import PREPROCESSING, recipe, tiny_model, train_tiny
from vitprune.core.model import Preprocessing, SavedModel
from vitprune.errors import TrainingError
from vitprune.training.distillation import Distiller, check_teacher, run_with_streams
from vitprune.training.options import DistillationOptions

CLASSES = ("a", "b", "c", "d")


def options(**changes):
    return DistillationOptions(**{"weight": 0.5, "temperature": 2.0, "hard": False, "feature_weight": 0.0} | changes)


def saved(seed=0, preprocessing=PREPROCESSING, **changes):
    return SavedModel(model=tiny_model(seed, **changes).eval(), preprocessing=preprocessing, class_names=CLASSES)


def images():
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def loss_of(student, distiller, cross_entropy=0.0):
    student_outputs, teacher_outputs = distiller.run(student, images()), distiller.teacher_outputs(images())
    return distiller.loss(torch.tensor(cross_entropy), student_outputs, teacher_outputs).item()


def test_the_soft_loss_is_that_of_its_definition():
    student, teacher = tiny_model(1).eval(), saved(2)
    loss = loss_of(student, Distiller(teacher, options(weight=0.3), PREPROCESSING), cross_entropy=1.5)
    expected = 0.0
    for p, q in zip(teacher.model(images()).tolist(), student(images()).tolist(), strict=True):
        p, q = ([math.exp(value / 2) for value in values] for values in (p, q))
        p, q = ([value / sum(values) for value in values] for values in (p, q))
        expected += 2.0**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 5
    assert loss == pytest.approx(0.7 * 1.5 + 0.3 * expected, rel=1e-4)


def test_the_hard_loss_is_the_cross_entropy_with_the_teachers_classes():
    student, teacher = tiny_model(1).eval(), saved(2)
    loss = loss_of(student, Distiller(teacher, options(weight=1.0, hard=True), PREPROCESSING))
    expected = F.cross_entropy(student(images()), teacher.model(images()).argmax(dim=1)).item()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    teacher = saved()
    distiller = Distiller(teacher, options(weight=1.0, feature_weight=3.0), PREPROCESSING)
    assert loss_of(teacher.model, distiller) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(tiny_model(5).eval(), distiller) > 0.1


def test_streams_come_with_the_models_own_logits():
    model = tiny_model(heads_per_layer=(2, 0), neurons_per_layer=(0, 16)).eval()
    logits, streams = run_with_streams(model, images())
    assert torch.allclose(logits, model(images()), atol=1e-5)
    assert [tuple(stream.shape) for stream in streams] == [(5, 5, 16)] * 2


def test_a_teacher_sees_images_in_its_own_form():
    other = Preprocessing(mean=(0.1,), std=(0.7,))
    pixels = torch.rand(5, 1, 8, 8)
    teacher = saved(preprocessing=other)
    logits, _ = Distiller(teacher, options(), PREPROCESSING).teacher_outputs(PREPROCESSING.normalise(pixels))
    assert torch.allclose(logits, teacher.model(other.normalise(pixels)), atol=1e-5)


def test_training_with_a_teacher_brings_the_student_closer_to_it(splits):
    teacher = saved(7)
    train_tiny(teacher.model, *splits, recipe(epochs=10, learning_rate=0.01))
    distiller = Distiller(teacher, options(weight=1.0, feature_weight=1.0), PREPROCESSING)
    student = tiny_model(1)
    before = loss_of(student.eval(), distiller)
    weights = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    train_tiny(student, *splits, recipe(epochs=10, learning_rate=0.01), distiller=distiller)
    assert loss_of(student, distiller) < 0.7 * before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.model.state_dict().items())


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (replace(saved(), class_names=("a", "b", "x", "d")), "knows other classes"),
        (saved(image_size=16), "image_size 16"),
        (saved(in_channels=3), "in_channels 3"),
        (saved(d_model=32), "layers of width 32"),
        (saved(pooling="mean"), "width 16 and 4 tokens and the student 2 layers of width 16 and 5 tokens"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(teacher, message):
    with pytest.raises(TrainingError, match=message):
        check_teacher(teacher, saved(), options(feature_weight=1.0))
    check_teacher(saved(d_model=32), saved(), options())
