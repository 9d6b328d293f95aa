import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation
from vitprune.commands.pruning import prune_to_target
from vitprune.errors import MeasurementError, PruningError
from vitprune.pruning.options import PruneOptions

CPU = torch.device("cpu")
OPTIONS = {
    "target_speedup": None,
    "target_kl": None,
    "group_size": 16,
    "batch_size": 16,
    "device": None,
    "warmup": 2,
    "rounds": 15,
}


@pytest.fixture(scope="module")
def searched():
    # Large enough for its layers to be what takes the time.
    model = random_model(1, dtype=torch.float32, scale=1.0, image_size=16, d_model=64, num_layers=4, d_mlp=256)
    images = random_images(model, count=16)
    return model, images, Ablation.mean(model, images)


def prune(searched, tmp_path, **options):
    return prune_to_target(PruneOptions(**OPTIONS | options), *searched, CPU, latency=tmp_path / "latency.json")


def test_a_speed_is_reached_as_measured_on_the_whole_model(searched, tmp_path):
    small, figures = prune(searched, tmp_path, target_speedup=2.0)
    # The last measurement is one more, with its own noise.
    assert figures["measured_speedup"] > 1.5
    assert figures["search_kl"] > 0
    assert sum(small.config.layer_neurons) < 4 * 256
    assert (tmp_path / "latency.json").is_file()


def test_a_kl_is_kept(searched, tmp_path):
    _, figures = prune(searched, tmp_path, target_kl=1e-6)
    assert 0 <= figures["search_kl"] <= 1e-6


def test_a_speed_that_no_model_has_names_the_best(searched, tmp_path):
    with pytest.raises(
        PruningError, match=r"target_speedup 10000 cannot be reached .* best model found is \d+\.\d+ times"
    ):
        prune(searched, tmp_path, target_speedup=10_000.0)


def test_an_unreliable_measurement_is_refused(searched, tmp_path):
    options = PruneOptions(**OPTIONS | {"target_speedup": 2.0}).model_copy(update={"rounds": 3})
    with pytest.raises(MeasurementError, match="would not give a figure to trust"):
        prune_to_target(options, *searched, CPU, latency=tmp_path / "latency.json")
