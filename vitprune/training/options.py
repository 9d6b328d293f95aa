"""The params of the sections ``train`` and ``finetune``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vitprune.options import Fraction, MixingAlpha, NonNegative, Options, Positive, Share


class AugmentOptions(Options):
    """Augmentation of training batches; 0 (1 for ``crop_scale_min``) switches an operation off."""

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
    """How much a student learns from a teacher: nothing with ``weight`` and ``feature_weight`` 0."""

    weight: Fraction
    temperature: Annotated[float, Field(gt=0)]
    hard: bool
    feature_weight: NonNegative

    @property
    def is_on(self) -> bool:
        """Whether the teacher is used at all."""
        return self.weight > 0 or self.feature_weight > 0


class FitOptions(Options):
    """What training the baseline and fine-tuning each set for themselves."""

    section: ClassVar[str]

    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_epochs: NonNegative
    distillation: DistillationOptions

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"{self.section}.warmup_epochs ({self.warmup_epochs}) must be less than "
                f"{self.section}.epochs ({self.epochs})"
            )
        return self


class TrainOptions(FitOptions):
    """A whole training recipe: that of the baseline, or the one that ``FinetuneOptions.recipe`` makes of it."""

    section: ClassVar[str] = "train"

    batch_size: Positive
    optimizer: Literal["adamw", "muon"]
    weight_decay: NonNegative
    label_smoothing: Share
    clip_norm: Annotated[float, Field(gt=0)]
    compile: bool
    ema_decay: Share | None
    checkpoint_minutes: Annotated[float, Field(gt=0)]
    teacher: str | None
    augment: AugmentOptions


class FinetuneOptions(FitOptions):
    """Recovery of the pruned model, with the baseline as teacher; the control is trained for as many epochs."""

    section: ClassVar[str] = "finetune"

    rounds: Positive
    scope: Literal["all", "cut"]

    @model_validator(mode="after")
    def _warm_up_ends_in_each_round(self) -> Self:
        if self.warmup_epochs >= self.epochs // self.rounds:
            raise ValueError(
                f"finetune.warmup_epochs ({self.warmup_epochs}) must be less than the epochs of a round: "
                f"finetune.epochs ({self.epochs}) are shared by finetune.rounds ({self.rounds})"
            )
        return self

    def recipe(self, train: TrainOptions) -> TrainOptions:
        """The recipe of the baseline with the length, learning rate and distillation of fine-tuning."""
        return train.model_copy(update={name: getattr(self, name) for name in FitOptions.model_fields})

    def of_round(self, number: int) -> FinetuneOptions:
        """The options of one round, from 1 to ``rounds``; the rounds share the epochs."""
        epochs = self.epochs * number // self.rounds - self.epochs * (number - 1) // self.rounds
        return self.model_copy(update={"epochs": epochs, "rounds": 1})
