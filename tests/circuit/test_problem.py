"""What every method asks of its arguments."""

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation, Graph, discover
from vitprune.errors import CircuitError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": -1e-3}, "tau must be a finite number of at least 0, got -0.001"),
        ({"tau": float("nan")}, "tau must be a finite number of at least 0, got nan"),
        ({"metric": "mse"}, "metric must be one of kl, cross-entropy, logit-difference, accuracy, got 'mse'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"labels": torch.tensor([0, 1])}, "one label for each of 6 images"),
        ({"labels": torch.full((6,), 3)}, "labels must be from 0 to 2, got up to 3"),
        ({"granularity": "layer"}, "granularity must be one of edge, node, node-edge, got 'layer'"),
        ({"images": torch.zeros(0, 1, 4, 4, dtype=torch.float64)}, "there are no images"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, r"\(batch, 1, 4, 4\), got \(2, 3, 4, 4\)"),
        ({"images": torch.full((2, 1, 4, 4), torch.nan, dtype=torch.float64)}, "logits are not finite"),
        ({"graph": Graph((2, 2, 2), (12, 12, 12))}, "belongs to another model"),
        ({"graph": Graph((2, 2), (12, 12), pooling="mean")}, r"neurons \[12, 12\] and pooling class; use Graph.of"),
        ({"ablation": Ablation.zero(random_model(num_layers=1))}, "made for another model"),
    ],
)
def test_a_wrong_call_gets_a_clear_error(change, message):
    model = random_model()
    arguments = {"images": random_images(model), "tau": 0.01} | change
    with pytest.raises(CircuitError, match=message):
        discover(model, **arguments)


def test_a_model_in_training_mode_is_refused():
    model = random_model()
    with pytest.raises(CircuitError, match="training mode"):
        discover(model.train(), random_images(model), tau=0.01)
