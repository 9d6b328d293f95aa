"""What training minimises.

Legend of dimensions:
    b  images in the batch
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the images of −Σ_k q_k log p_k, in nats, with q = (1 − s)·target + s/num_classes.

    ``logits`` are ``(b, num_classes)``; ``targets`` are class indices ``(b,)`` or probabilities ``(b, num_classes)``,
    as MixUp and CutMix make them. Label smoothing s after Szegedy et al. 2016, arXiv 1512.00567. Computed in float32
    whatever the precision of the logits.
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
