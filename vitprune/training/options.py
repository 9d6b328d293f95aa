"""The params of the sections ``train`` and ``finetune``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vitprune.options import Fraction, MixingAlpha, NonNegative, Options, Positive, Share


class AugmentOptions(Options):
    """Augmentation of training batches; 0 (1 for ``crop_scale_min``) switches a part off."""

    horizontal_flip: Fraction
    crop_scale_min: Annotated[float, Field(gt=0, le=1)]
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    policy: Literal["randaugment", "trivialaugment"] | None
    policy_magnitude: Annotated[int, Field(ge=0, le=30)]
    noise_std: NonNegative
    erasing: Fraction
    mixup_alpha: MixingAlpha
    cutmix_alpha: MixingAlpha


class DistillationOptions(Options):
    """What a student learns from a teacher; ``weight`` 0 and ``feature_weight`` 0 leave the teacher out."""

    weight: Fraction
    temperature: Annotated[float, Field(gt=0)]
    hard: bool
    feature_weight: NonNegative

    @property
    def is_on(self) -> bool:
        """Whether the teacher is asked at all."""
        return self.weight > 0 or self.feature_weight > 0


def _warm_up_message(section: str, warmup_epochs: float, epochs: int) -> str:
    return f"{section}.warmup_epochs ({warmup_epochs}) must be less than {section}.epochs ({epochs})"


class TrainOptions(Options):
    """Optimisation of the baseline; fine-tuning shares all of it but its length and learning rate."""

    epochs: Positive
    batch_size: Positive
    optimizer: Literal["adamw", "muon"]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_epochs: NonNegative
    weight_decay: NonNegative
    label_smoothing: Share
    clip_norm: Annotated[float, Field(gt=0)]
    compile: bool
    ema_decay: Share | None
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    teacher: str | None
    distillation: DistillationOptions
    augment: AugmentOptions

    @model_validator(mode="after")
    def _warm_up_ends(self) -> TrainOptions:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(_warm_up_message("train", self.warmup_epochs, self.epochs))
        return self


class FinetuneOptions(Options):
    """Recovery after pruning, the baseline as teacher; the control is trained for as long."""

    epochs: Positive
    rounds: Positive
    scope: Literal["all", "cut"]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_epochs: NonNegative
    distillation: DistillationOptions

    @model_validator(mode="after")
    def _warm_up_ends(self) -> FinetuneOptions:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(_warm_up_message("finetune", self.warmup_epochs, self.epochs))
        if self.warmup_epochs >= self.epochs // self.rounds:
            raise ValueError(
                f"finetune.warmup_epochs ({self.warmup_epochs}) must be less than the epochs of a round: "
                f"finetune.epochs ({self.epochs}) are shared by finetune.rounds ({self.rounds})"
            )
        return self

    def recipe(self, train: TrainOptions) -> TrainOptions:
        """The recipe of ``train`` with the length, learning rate and distillation of fine-tuning."""
        own = {"epochs", "learning_rate", "warmup_epochs", "distillation"}
        return train.model_copy(update={name: getattr(self, name) for name in own})

    def of_round(self, number: int) -> FinetuneOptions:
        """The same for one of the rounds, from 1 to ``rounds``, which share the epochs."""
        epochs = self.epochs * number // self.rounds - self.epochs * (number - 1) // self.rounds
        return self.model_copy(update={"epochs": epochs, "rounds": 1})
