"""Training and fine-tuning of a ViT: data, augmentation, optimisation, distillation, records and saved state."""

from vitprune.training.compute import Compute
from vitprune.training.gradients import LayerGradient
from vitprune.training.history import EpochRecord
from vitprune.training.loop import TrainingResult, train

__all__ = ["Compute", "EpochRecord", "LayerGradient", "TrainingResult", "train"]
