from dataclasses import replace

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from tests.recipes.conftest import CPU
from tests.training.conftest import PREPROCESSING, tiny_model
from vitprune.circuit import Ablation, Circuit, Graph
from vitprune.circuit.metrics import kl_divergence
from vitprune.core.model import SavedModel
from vitprune.errors import MeasurementError, PruningError
from vitprune.pruning import compact, cutting
from vitprune.pruning.measurements import Measurements, SpeedMeter
from vitprune.pruning.options import PruneOptions
from vitprune.pruning.refit import refit
from vitprune.recipes.prune import CircuitModel, prune

OPTIONS = PruneOptions(
    target_speedup=None,
    target_kl=None,
    group_size=32,
    num_images=16,
    fold="mean",
    num_fold_images=16,
    batch_size=None,
    seed=0,
    timing_device=None,
    timing_batch_size=16,
    timing_warmup=2,
    timing_rounds=9,
)


@pytest.fixture(scope="module")
def searched():
    # Large enough for its layers to be what takes the time.
    model = random_model(1, dtype=torch.float32, scale=1.0, image_size=16, d_model=64, num_layers=4, d_mlp=256)
    images = random_images(model, count=16)
    return model, images, images


@pytest.fixture(scope="module")
def baseline(packed):
    model = tiny_model(d_model=32, d_mlp=64, num_layers=3).eval()
    return SavedModel(model=model, preprocessing=PREPROCESSING, class_names=packed.class_names)


def search(searched, known=None, **options):
    chosen = OPTIONS.model_copy(update=options)
    meter = SpeedMeter(searched[0], chosen.group_size, chosen.protocol(CPU), known)
    return cutting.search_target(chosen, *searched, meter), meter


@pytest.fixture(scope="module")
def reached(searched):
    """A model pruned to a speed, and the meter that measured for it."""
    return search(searched, target_speedup=2.0)


@pytest.mark.alone
def test_a_speed_is_reached_as_measured_on_the_whole_model(reached):
    pruned, meter = reached
    assert meter.speedup(pruned.model) > 1.5  # one more measurement, with its own noise
    assert pruned.kl > 0
    assert pruned.trace[-1].action in ("removed", "restored")
    assert sum(pruned.model.config.layer_neurons) < 4 * 256


@pytest.mark.alone
def test_with_the_measurements_of_before_the_same_model_comes_out(searched, reached):
    """Whatever the clock says now: every figure that decides is taken from the first run."""
    first, meter = reached
    again, replayed = search(searched, meter.measurements, target_speedup=2.0)
    assert replayed.table() == meter.table()
    assert (again.trace, again.kl) == (first.trace, first.kl)
    assert all(map(torch.equal, first.model.state_dict().values(), again.model.state_dict().values()))


@pytest.mark.alone
def test_of_two_searches_the_one_with_the_lower_kl_after_the_refit_decides(searched, reached):
    model, images, fold_images = searched
    chosen, meter = search(searched, reached[1].measurements, target_speedup=2.0, fold="refit")
    kls = []
    for fold in ("mean", "affine"):
        pruned, _ = search(searched, meter.measurements, target_speedup=2.0, fold=fold)
        kls += [pruned.kl, kl_divergence(model(images), refit(pruned.model, model, fold_images)(images))]
    assert chosen.kl == pytest.approx(min(kls), rel=1e-4)


@pytest.mark.alone
def test_a_kl_is_kept(searched, reached):
    assert 0 <= search(searched, reached[1].measurements, target_kl=1e-6)[0].kl <= 1e-6


@pytest.mark.alone
def test_a_speed_that_no_model_has_names_the_best(searched, reached):
    known = reached[1].measurements  # the costs of the parts: not measured again
    with pytest.raises(
        PruningError, match=r"target_speedup 10000 cannot be reached .* best model found is \d+\.\d+ times"
    ):
        search(searched, known, target_speedup=10_000.0)


def test_an_unreliable_measurement_is_refused(searched):
    with pytest.raises(MeasurementError, match="would not give a figure to trust"):
        search(searched, target_speedup=2.0, timing_rounds=3)


def test_without_a_target_the_circuit_decides(packed, baseline):
    graph = Graph.of(baseline.model, mlp_groups=4)
    live = {"embed", "a0.h1", "m1.g0", "m1.g2"}
    keep_mask = graph.all_edges & torch.tensor([sender.name in live for sender in graph.senders])[None, :]
    images = random_images(baseline.model).float()
    ablation = Ablation.mean(baseline.model, images)
    circuit = Circuit(graph=graph, keep_mask=keep_mask, ablation=ablation, kl=0.0, method="by hand")
    found = CircuitModel(circuit, baseline)
    pruned = prune(packed, baseline, found, OPTIONS.model_copy(update={"timing_rounds": 5}), 1, CPU)
    expected = compact(baseline.model, circuit)
    assert pruned.saved.model.config == expected.config
    for name, tensor in expected.state_dict().items():
        assert torch.equal(pruned.saved.model.state_dict()[name], tensor), name
    assert pruned.metrics["heads"]["kept"] == 1
    assert pruned.metrics["neurons"]["kept"] == 32
    assert pruned.metrics["sublayers"]["kept"] == 2
    assert pruned.metrics["search_kl"] > 0
    assert pruned.metrics["val"]["kl"] > 0
    assert pruned.measurements.table is None


def test_the_main_rank_hands_over_models_that_sit_on_no_device_of_its_own(packed, baseline, monkeypatch):
    handed_over = []

    def from_main(work):
        handed_over.append(work())
        return handed_over[-1]

    monkeypatch.setattr(cutting, "from_main", from_main)
    monkeypatch.setattr(cutting, "_on_device", lambda result, device: replace(result, metrics={"device": device}))
    options = OPTIONS.model_copy(update={"target_kl": 1e-3, "timing_rounds": 5})
    result = cutting.prune_to_target(packed, baseline, options, CPU)
    assert handed_over[0].metrics["device"] == torch.device("cpu")
    assert result.metrics["device"] == CPU


def test_measurements_of_another_machine_or_shape_are_not_used(searched, tmp_path):
    first, meter = search(searched, target_kl=1e-6, timing_batch_size=1, timing_rounds=5, timing_warmup=1)
    meter.speedup(first.model)
    path = tmp_path / "latency.json"
    meter.measurements.write(path)
    known = Measurements.read(path)
    assert known == meter.measurements
    other = SpeedMeter(searched[0], 8, meter.protocol, known)
    assert other.measurements.table is None
    assert other.table() != known.table
    same = SpeedMeter(searched[0], OPTIONS.group_size, meter.protocol, known)
    assert same.table() == known.table
    assert same.speedup(first.model) == meter.measurements.speedups[next(iter(known.speedups))][0]
