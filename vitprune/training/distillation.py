"""Distillation: a student learns from the answers of a teacher, and if asked from the states of its stream.

Legend of dimensions:
    b  images in the batch    c  channels    t  tokens    d  width of the stream
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vitprune.errors import TrainingError
from vitprune.model.checkpoint import Preprocessing, SavedModel
from vitprune.model.config import ViTConfig
from vitprune.model.vit import Record, ViT
from vitprune.training.options import DistillationOptions

Streams = list[Tensor]
"""The stream ``(b, t, d)`` after each layer."""


def check_teacher(teacher: SavedModel, student: SavedModel, options: DistillationOptions) -> None:
    """Make sure that a teacher answers the student's question.

    Raises TrainingError if it takes other images or knows other classes, or if its layers, its width or its tokens are
    others and ``options.feature_weight`` asks to compare them.
    """
    theirs, ours = teacher.model.config, student.model.config
    if teacher.class_names != student.class_names:
        raise TrainingError(
            f"the teacher knows other classes ({_some(teacher.class_names)}) than the data has "
            f"({_some(student.class_names)}); take a teacher that was trained on these classes"
        )
    for name in ("image_size", "in_channels"):
        if getattr(theirs, name) != getattr(ours, name):
            raise TrainingError(
                f"the teacher takes images with {name} {getattr(theirs, name)}, the student with "
                f"{getattr(ours, name)}; take a teacher that was trained on images of this form"
            )
    if options.feature_weight and _stream_of(theirs) != _stream_of(ours):
        raise TrainingError(
            "distillation.feature_weight compares streams layer by layer and token by token, but the teacher has "
            f"{_stream_of(theirs)} and the student {_stream_of(ours)}; set it to 0"
        )


def _stream_of(config: ViTConfig) -> str:
    return f"{config.num_layers} layers of width {config.d_model} and {config.num_tokens} tokens"


def _some(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def run_with_streams(model: ViT, images: Tensor) -> tuple[Tensor, Streams]:
    """Logits ``(b, classes)``, and the stream after each layer."""
    record = Record("stream")
    logits = model.run(model.embed(images), record)
    return logits, list(record.values())


@dataclass(frozen=True, eq=False)
class Distiller:
    """A teacher, and how much its student listens; ``preprocessing`` is the student's."""

    teacher: SavedModel
    options: DistillationOptions
    preprocessing: Preprocessing

    def run(self, model: ViT, images: Tensor) -> tuple[Tensor, Streams]:
        """A model's logits, and its streams if they are to be compared."""
        return run_with_streams(model, images) if self.options.feature_weight else (model(images), [])

    @torch.no_grad()
    def ask(self, images: Tensor) -> tuple[Tensor, Streams]:
        """The teacher's logits and streams; ``images (b, c, height, width)`` are normalised for the student."""
        if self.teacher.preprocessing != self.preprocessing:
            images = self.teacher.preprocessing.normalise(self.preprocessing.restore(images))
        return self.run(self.teacher.model.eval(), images)

    def loss(self, cross_entropy: Tensor, student: tuple[Tensor, Streams], teacher: tuple[Tensor, Streams]) -> Tensor:
        """What the student minimises, in nats.

        (1 − w) · ``cross_entropy`` + w · (T² · KL(teacher ‖ student) at temperature T, or if ``hard`` the cross-entropy
        of the teacher's answers) + f · mean over layers of the squared difference of the normed streams. Soft targets
        after Hinton et al. 2015 (arXiv 1503.02531), hard ones after Touvron et al. 2021 (arXiv 2012.12877).
        """
        options, (logits, streams), (answers, states) = self.options, student, teacher
        logits = logits.float()
        if options.hard:
            learned = F.cross_entropy(logits, answers.argmax(dim=1))
        else:
            temperature = options.temperature
            learned = temperature**2 * F.kl_div(
                (logits / temperature).log_softmax(dim=1),
                (answers.float() / temperature).log_softmax(dim=1),
                reduction="batchmean",
                log_target=True,
            )
        loss = (1 - options.weight) * cross_entropy + options.weight * learned
        if streams:
            width = streams[0].shape[-1:]
            apart = [
                F.mse_loss(F.layer_norm(mine.float(), width), F.layer_norm(theirs.float(), width))
                for mine, theirs in zip(streams, states, strict=True)
            ]
            loss = loss + options.feature_weight * torch.stack(apart).mean()
        return loss
