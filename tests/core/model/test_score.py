import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vitprune.core.model.score import score


def test_scores_are_those_of_the_definitions():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 12, generator=generator), np.arange(40) % 12
    found = score(logits, labels)
    assert found.loss == pytest.approx(F.cross_entropy(logits, torch.from_numpy(labels)).item())
    ranks = (logits > logits[torch.arange(40), labels][:, None]).sum(1)
    assert found.accuracy == (ranks == 0).double().mean().item()
    assert found.top5 == (ranks < 5).double().mean().item()


def test_few_classes_have_no_top_five():
    found = score(torch.eye(3), np.arange(3))
    assert found.top5 is None
    assert found.as_metrics() == {"loss": pytest.approx(0.5514, abs=1e-4), "accuracy": 1.0, "balanced_accuracy": 1.0}
