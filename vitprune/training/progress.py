"""What a training run has reached so far: the records of its epochs, and its best weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from torch import Tensor

from vitprune.core.model.vit import ViT
from vitprune.options import Options
from vitprune.training.gradients import LayerGradient
from vitprune.training.history import EpochRecord
from vitprune.training.state import State


@dataclass(frozen=True, kw_only=True)
class ValScore:
    """Accuracy and loss in nats on the validation split."""

    accuracy: float
    loss: float

    def is_above(self, other: ValScore) -> bool:
        """Whether this has the higher accuracy, or with the same the lower loss."""
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The records of a training run, whose weights are those after ``best_epoch``, with their score on validation.

    Epoch 0 stands for the weights before the first step.
    """

    history: tuple[EpochRecord, ...]
    gradient_flow: tuple[LayerGradient, ...]
    best_epoch: int
    best: ValScore


class ProgressNumbers(Options):
    """The numbers in the state of a ``Progress``."""

    history: tuple[EpochRecord, ...]
    gradient_flow: tuple[LayerGradient, ...]
    best_epoch: int
    best: ValScore | None

    def check(self, epochs: int, layers: list[str]) -> None:
        """Raise ValueError if these are not the numbers after so many whole epochs of a model with these ``layers``."""
        numbers = list(range(1, epochs + 1))
        if [record.epoch for record in self.history] != numbers:
            raise ValueError(f"the history is not that of {epochs} epochs")
        if [(found.epoch, found.layer) for found in self.gradient_flow] != [
            (n, name) for n in numbers for name in layers
        ]:
            raise ValueError(f"the gradients are not those of {epochs} epochs")
        scores = [ValScore(accuracy=record.val_accuracy, loss=record.val_loss) for record in self.history]
        if self.best_epoch:
            is_in_history = 0 < self.best_epoch <= epochs and scores[self.best_epoch - 1] == self.best
        else:
            is_in_history = self.best is not None or not epochs
        if not is_in_history or (self.best and any(score.is_above(self.best) for score in scores)):
            raise ValueError(f"epoch {self.best_epoch} is not the best of the history")


@dataclass
class Progress:
    """The records of the epochs so far, and the best weights."""

    history: list[EpochRecord] = field(default_factory=list)
    gradient_flow: list[LayerGradient] = field(default_factory=list)
    best_epoch: int = 0
    best: ValScore | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, record: EpochRecord, gradients: list[LayerGradient], model: ViT) -> None:
        """Add an epoch, and keep the weights if they are the best so far."""
        self.history.append(record)
        self.gradient_flow += gradients
        self.consider(record.epoch, ValScore(accuracy=record.val_accuracy, loss=record.val_loss), model)

    def consider(self, epoch: int, found: ValScore, model: ViT) -> None:
        """Keep the weights after ``epoch`` if they are the best so far."""
        if self.best is None or found.is_above(self.best):
            self.best_epoch, self.best = epoch, found
            self.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def state(self) -> State:
        """All of it."""
        return State(
            tensors=self.best_weights,
            numbers={
                "history": [asdict(record) for record in self.history],
                "gradient_flow": [asdict(gradient) for gradient in self.gradient_flow],
                "best_epoch": self.best_epoch,
                "best": self.best and asdict(self.best),
            },
        )

    @classmethod
    def of_state(cls, numbers: ProgressNumbers, best_weights: dict[str, Tensor]) -> Progress:
        """The progress whose state this is."""
        return cls(
            history=list(numbers.history),
            gradient_flow=list(numbers.gradient_flow),
            best_epoch=numbers.best_epoch,
            best=numbers.best,
            best_weights=best_weights,
        )

    def result(self) -> TrainingResult:
        """The records of a finished run."""
        assert self.best is not None
        return TrainingResult(
            history=tuple(self.history),
            gradient_flow=tuple(self.gradient_flow),
            best_epoch=self.best_epoch,
            best=self.best,
        )
