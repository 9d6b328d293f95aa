"""Training and fine-tuning of a ViT on one device: schedule, loss, optimiser, history and gradient flow."""

from vitprune.training.gradients import LayerGradient
from vitprune.training.history import EpochRecord
from vitprune.training.loop import TrainingResult, train

__all__ = ["EpochRecord", "LayerGradient", "TrainingResult", "train"]
