"""Distillation: a student learns from the logits of a teacher, and optionally from its residual stream.

Legend of dimensions:
    b  images in the batch    c  channels    t  tokens    d  width of the stream
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vitprune.core.model.checkpoint import Preprocessing, SavedModel
from vitprune.core.model.config import ViTConfig
from vitprune.core.model.vit import Record, ViT
from vitprune.errors import TrainingError
from vitprune.training.options import DistillationOptions

Streams = list[Tensor]
"""The stream ``(b, t, d)`` after each layer."""


def check_teacher(teacher: SavedModel, student: SavedModel, options: DistillationOptions) -> None:
    """Check that a teacher can teach a student.

    Raises TrainingError if the two differ in classes or in the form of their images, or if ``options.feature_weight``
    compares streams that differ in layers, width or tokens.
    """
    teacher_config, student_config = teacher.model.config, student.model.config
    if teacher.class_names != student.class_names:
        raise TrainingError(
            f"the teacher knows other classes ({_first_of(teacher.class_names)}) than the data has "
            f"({_first_of(student.class_names)}); take a teacher that was trained on these classes"
        )
    for name in ("image_size", "in_channels"):
        if getattr(teacher_config, name) != getattr(student_config, name):
            raise TrainingError(
                f"the teacher takes images with {name} {getattr(teacher_config, name)}, the student with "
                f"{getattr(student_config, name)}; take a teacher that was trained on images of this form"
            )
    if options.feature_weight and _stream_shape(teacher_config) != _stream_shape(student_config):
        raise TrainingError(
            "distillation.feature_weight compares streams layer by layer and token by token, but the teacher has "
            f"{_stream_shape(teacher_config)} and the student {_stream_shape(student_config)}; set it to 0"
        )


def _stream_shape(config: ViTConfig) -> str:
    return f"{config.num_layers} layers of width {config.d_model} and {config.num_tokens} tokens"


def _first_of(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def run_with_streams(model: ViT, images: Tensor) -> tuple[Tensor, Streams]:
    """Logits ``(b, classes)``, and the stream after each layer."""
    record = Record("stream")
    logits = model.run(model.embed(images), record)
    return logits, list(record.values())


@dataclass(frozen=True, eq=False)
class Distiller:
    """A teacher and the loss by which a student learns from it; ``preprocessing`` is the student's."""

    teacher: SavedModel
    options: DistillationOptions
    preprocessing: Preprocessing

    def run(self, model: ViT, images: Tensor) -> tuple[Tensor, Streams]:
        """Logits of a model, and its streams if they are compared."""
        return run_with_streams(model, images) if self.options.feature_weight else (model(images), [])

    @torch.no_grad()
    def teacher_outputs(self, images: Tensor) -> tuple[Tensor, Streams]:
        """Logits and streams of the teacher for ``images`` ``(b, c, height, width)`` normalised for the student."""
        if self.teacher.preprocessing != self.preprocessing:
            images = self.teacher.preprocessing.normalise(self.preprocessing.restore(images))
        return self.run(self.teacher.model.eval(), images)

    def loss(self, cross_entropy: Tensor, student: tuple[Tensor, Streams], teacher: tuple[Tensor, Streams]) -> Tensor:
        """The loss of the student in nats, from its ``cross_entropy`` on the labels and the outputs of both models.

        (1 − w) · cross_entropy + w · distillation + f · features. Distillation is T² · KL(teacher ‖ student) at
        temperature T (Hinton et al. 2015, arXiv 1503.02531) or, if ``hard``, the cross-entropy with the teacher's
        classes (Touvron et al. 2021, arXiv 2012.12877). Features is the squared difference of the layer-normed streams,
        mean over the layers.
        """
        options, (logits, streams), (teacher_logits, teacher_streams) = self.options, student, teacher
        logits = logits.float()
        if options.hard:
            distillation = F.cross_entropy(logits, teacher_logits.argmax(dim=1))
        else:
            temperature = options.temperature
            distillation = temperature**2 * F.kl_div(
                (logits / temperature).log_softmax(dim=1),
                (teacher_logits.float() / temperature).log_softmax(dim=1),
                reduction="batchmean",
                log_target=True,
            )
        loss = (1 - options.weight) * cross_entropy + options.weight * distillation
        if streams:
            width = streams[0].shape[-1:]
            differences = [
                F.mse_loss(F.layer_norm(stream.float(), width), F.layer_norm(target.float(), width))
                for stream, target in zip(streams, teacher_streams, strict=True)
            ]
            loss = loss + options.feature_weight * torch.stack(differences).mean()
        return loss
