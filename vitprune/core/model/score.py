"""How good predictions are: loss and accuracies of logits.

Legend of dimensions: N images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

TOP5_MIN_CLASSES = 10
"""With fewer classes a top-five accuracy says little."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean cross-entropy in nats, and shares of images between 0 and 1; ``top5`` is None with few classes.

    ``balanced_accuracy`` is the mean of the accuracies on the images of each class.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    top5: float | None

    def as_metrics(self) -> dict[str, float]:
        """The scores by name, without ``top5`` where it is None."""
        scores = {"loss": self.loss, "accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy}
        return scores if self.top5 is None else scores | {"top5": self.top5}


def score(logits: Tensor, labels: NDArray[np.int64] | Tensor) -> Score:
    """Score logits ``(N, classes)`` against labels ``(N,)``."""
    target = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    target = target.to(logits.device)
    top5 = None
    if logits.shape[1] >= TOP5_MIN_CLASSES:
        top5 = _share((logits.topk(5, dim=1).indices == target[:, None]).any(dim=1))
    is_right = logits.argmax(dim=1) == target
    return Score(
        loss=F.cross_entropy(logits.float(), target).item(),
        accuracy=_share(is_right),
        balanced_accuracy=_balanced(is_right, target),
        top5=top5,
    )


def _balanced(is_right: Tensor, target: Tensor) -> float:
    """The mean share of right images over the classes that have any."""
    images = torch.bincount(target)
    right = torch.bincount(target[is_right], minlength=len(images))
    has_any = images > 0
    return (right[has_any].double() / images[has_any]).mean().item()


def _share(is_right: Tensor) -> float:
    return int(is_right.sum()) / len(is_right)
