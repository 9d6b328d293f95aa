"""How far a circuit's answers are from the full model's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def kl_divergence(full_logits: Tensor, circuit_logits: Tensor) -> float:
    """KL(full ‖ circuit) in nats, mean over the images; both logits are ``(b, classes)``.

    In double precision, because a search compares differences far smaller than the divergence itself; on the CPU,
    because not every device has it.
    """
    full = F.log_softmax(full_logits.cpu().double(), dim=-1)
    circuit = F.log_softmax(circuit_logits.cpu().double(), dim=-1)
    return F.kl_div(circuit, full, log_target=True, reduction="batchmean").item()
