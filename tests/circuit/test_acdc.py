import itertools
import json
import os
import statistics
import subprocess
import sys
from contextlib import suppress

import pytest
import torch

from tests.circuit.oracle import brute_acdc, brute_kl, brute_metric, random_images, random_model
from vitprune.circuit import Ablation, Circuit, Graph, discover
from vitprune.circuit.engine import journal as journal_module
from vitprune.circuit.engine import search as search_module
from vitprune.errors import CircuitError

CASES = [
    (seed, pooling, granularity, ablation, split, groups, tau)
    for seed, (pooling, granularity, ablation, split, groups) in enumerate(
        itertools.product(("class", "mean"), ("edge", "node", "node-edge"), ("zero", "mean"), (True, False), (1, 3))
    )
    for tau in (10.0 ** -(1 + seed % 5), 0.3 * 10.0 ** -(1 + (seed + 2) % 5))
]


def ablation_of(kind, model, images):
    return Ablation.zero(model) if kind == "zero" else Ablation.mean(model, images)


@pytest.mark.parametrize(("seed", "pooling", "granularity", "kind", "split", "groups", "tau"), CASES)
def test_finds_the_same_circuit_as_brute_force(seed, pooling, granularity, kind, split, groups, tau):
    shape = {"num_layers": 1 + seed % 3, "num_heads": 1 + seed % 2, "patch_embedding": "conv" if seed % 2 else "linear"}
    model = random_model(seed, pooling=pooling, **shape)
    images = random_images(model, count=5, seed=seed)
    ablation = ablation_of(kind, model, random_images(model, count=9, seed=seed + 1))
    graph = Graph.of(model, split_qkv=split, mlp_groups=groups)
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=tau, granularity=granularity)
    kept = brute_acdc(model, images, graph, ablation, tau, granularity)
    assert set(circuit.kept) == kept
    assert set(circuit.kept) | set(circuit.removed) == set(graph.edges)
    assert circuit.kl == pytest.approx(brute_kl(model, images, graph, kept, ablation, model(images).detach()), abs=1e-9)


def middling_tau(model, images, **options):
    """A threshold that about half of the tested edges or nodes pass, whatever random numbers made the model.

    It is off the change of any test, so that rounding does not decide.
    """
    trace = discover(model, images, tau=0.0, **options).trace
    return 1.001 * statistics.median(d.after - d.before for d in trace if d.after - d.before > 1e-9)


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("granularity", ["edge", "node", "node-edge"])
def test_finds_the_same_circuit_as_brute_force_on_a_model_that_was_pruned_before(granularity, pooling):
    shape = {"num_layers": 3, "heads_per_layer": (2, 0, 1), "neurons_per_layer": (5, 12, 0), "token_biases": True}
    model = random_model(3, pooling=pooling, **shape)
    images = random_images(model)
    graph, ablation = Graph.of(model, mlp_groups=4), Ablation.mean(model, images)
    options = {"graph": graph, "ablation": ablation, "granularity": granularity}
    tau = middling_tau(model, images, **options)
    circuit = discover(model, images, tau=tau, **options)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, tau, granularity)
    assert 0 < len(circuit.kept) < len(graph.edges)


@pytest.mark.parametrize(
    "shape",
    [
        {"pooling": "mean", "patch_size": 4},  # one token
        {"pooling": "mean", "positions": "sincos", "patch_embedding": "shifted"},
        {"pooling": "class", "positions": "sincos", "patch_embedding": "shifted"},
    ],
)
@pytest.mark.parametrize("granularity", ["edge", "node-edge"])
def test_finds_the_same_circuit_as_brute_force_whatever_the_tokens_are(shape, granularity):
    model = random_model(17, num_layers=3, **shape)
    images = random_images(model)
    graph, ablation = Graph.of(model, mlp_groups=2), Ablation.mean(model, images)
    options = {"graph": graph, "ablation": ablation, "granularity": granularity}
    tau = middling_tau(model, images, **options)
    circuit = discover(model, images, tau=tau, **options)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, tau, granularity)
    assert 0 < len(circuit.kept) < len(graph.edges)


def test_single_precision_takes_the_same_decisions_away_from_ties():
    model = random_model(11, dtype=torch.float32)
    images = random_images(model)
    graph, ablation = Graph.of(model), Ablation.mean(model, images)
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=0.003)
    tested = [decision for decision in circuit.trace if decision.action != "unreachable"]
    assert min(abs(decision.after - decision.before - 0.003) for decision in tested) > 1e-6
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, 0.003, "edge")


def test_the_trace_tells_every_edge_once_and_follows_the_rule():
    model = random_model(4, num_layers=3)
    images = random_images(model)
    circuit = discover(model, images, tau=0.05)
    assert sorted((d.sender, d.receiver) for d in circuit.trace) == sorted(circuit.graph.edges)
    assert {d.action for d in circuit.trace} == {"removed", "kept", "unreachable"}
    for decision in circuit.trace:
        if decision.action != "unreachable":
            assert (decision.after - decision.before < 0.05) == (decision.action == "removed")
    receivers = list(dict.fromkeys(d.receiver for d in circuit.trace))
    assert receivers == [receiver.name for receiver in reversed(circuit.graph.receivers)]


def test_the_removals_in_a_trace_replay_to_the_circuits_kl():
    model = random_model(5, num_layers=3)
    images = random_images(model)
    circuit = discover(model, images, tau=0.01)
    last = [decision for decision in circuit.trace if decision.action == "removed"][-1]
    assert circuit.kl == pytest.approx(last.after, abs=1e-9)


def test_a_threshold_of_zero_keeps_what_hurts_and_a_huge_one_keeps_nothing():
    model = random_model(6)
    images = random_images(model)
    nothing = discover(model, images, tau=1e9)
    assert nothing.kept == ()
    careful = discover(model, images, tau=0.0)
    assert careful.kept
    assert careful.kl <= 1e-12


def test_two_searches_give_the_same_circuit_and_trace():
    model = random_model(7)
    images = random_images(model)
    first, second = (discover(model, images, tau=0.01, granularity="node-edge") for _ in range(2))
    assert first.kept == second.kept
    assert first.trace == second.trace


def test_progress_counts_up_to_the_number_of_edges():
    model = random_model(8)
    seen = []
    circuit = discover(model, random_images(model), tau=0.01, on_progress=seen.append)
    edges = len(circuit.graph.edges)
    assert [progress.decided for progress in seen] == list(range(1, edges + 1))
    assert {progress.total for progress in seen} == {edges}
    assert seen[-1].removed == len(circuit.removed)
    assert seen[-1].damage == pytest.approx(circuit.kl, abs=1e-9)
    assert seen[-1].seconds_left == 0


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize(("batch_size", "candidates"), [(1, 1), (2, 1), (2, 3), (None, 2), (7, 8)])
@pytest.mark.parametrize("granularity", ["edge", "node-edge"])
def test_neither_bounded_memory_nor_several_candidates_at_once_change_the_circuit(
    batch_size, candidates, granularity, pooling
):
    model = random_model(12, num_layers=3, pooling=pooling)
    images = random_images(model, count=5)
    options = {"graph": Graph.of(model, mlp_groups=2), "granularity": granularity}
    tau = middling_tau(model, images, **options)
    circuit = discover(model, images, tau=tau, batch_size=batch_size, candidates=candidates, **options)
    ablation = Ablation.mean(model, images)
    assert set(circuit.kept) == brute_acdc(model, images, options["graph"], ablation, tau, granularity)
    assert 0 < len(circuit.kept) < len(circuit.graph.edges)


@pytest.mark.parametrize("metric", ["cross-entropy", "logit-difference", "accuracy"])
def test_other_metrics_take_the_decisions_of_brute_force(metric):
    model = random_model(13)
    images = random_images(model, count=12)
    labels = torch.arange(12) % 3
    graph, ablation = Graph.of(model), Ablation.mean(model, images)
    tau = 0.05
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=tau, metric=metric, labels=labels)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, tau, "edge", brute_metric(metric, labels))
    assert circuit.kl == pytest.approx(
        brute_kl(model, images, graph, set(circuit.kept), ablation, model(images).detach()), abs=1e-9
    )


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("kind", ["resample", "noise"])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_ablations_that_differ_from_image_to_image_give_the_circuit_of_brute_force(kind, batch_size, pooling):
    model = random_model(14, pooling=pooling)
    images = random_images(model, count=6)
    ablation = Ablation.resample(model, random_images(model, count=4, seed=5), seed=1)
    if kind == "noise":
        ablation = Ablation.noise(model, 0.7, seed=3)
    graph = Graph.of(model, mlp_groups=3)
    options = {"graph": graph, "ablation": ablation}
    tau = middling_tau(model, images, **options)
    circuit = discover(model, images, tau=tau, batch_size=batch_size, **options)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, tau, "edge")
    assert 0 < len(circuit.kept) < len(graph.edges)


@pytest.mark.parametrize("granularity", ["edge", "node-edge"])
@pytest.mark.parametrize("method", ["acdc", "hybrid"])
def test_an_interrupted_search_goes_on_to_the_same_circuit_from_wherever_it_stopped(
    tmp_path, monkeypatch, granularity, method
):
    monkeypatch.setattr(journal_module, "TESTS_BETWEEN_REFRESHES", 10)
    model = random_model(15, num_layers=3, dtype=torch.float32)
    images = random_images(model)
    options = {"tau": 0.01, "granularity": granularity}
    whole = discover(model, images, method, **options)

    class Interrupted(Exception):
        pass

    for stop in range(1, len(whole.trace), 7):

        def interrupt(progress, last=stop):
            if progress.decided == last:
                raise Interrupted

        journal = tmp_path / f"{stop}.jsonl"
        with suppress(Interrupted):
            discover(model, images, method, journal=journal, on_progress=interrupt, **options)
        with journal.open("a") as file:
            file.write('{"sender": "a0.h')  # torn, as by a power cut
        resumed = discover(model, images, method, journal=journal, **options)
        assert resumed.trace == whole.trace
        assert resumed.kept == whole.kept


def test_a_resumed_search_repeats_no_test_of_a_finished_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "TESTS_BETWEEN_REFRESHES", 1)
    model = random_model(15, num_layers=3)
    images = random_images(model)
    discover(model, images, tau=0.01, journal=tmp_path / "journal")
    calls = []
    monkeypatch.setattr(
        search_module.IncrementalEvaluator, "damage_without", lambda self, tried: calls.append(tried) or [0.0]
    )
    monkeypatch.setattr(search_module.IncrementalEvaluator, "accept", lambda self: None)
    discover(model, images, tau=0.01, journal=tmp_path / "journal")
    assert len(calls) <= len(model.blocks) * 8 + 3


def test_a_journal_of_another_search_is_not_believed(tmp_path):
    model = random_model(16)
    images = random_images(model)
    discover(model, images, tau=1e9, journal=tmp_path / "journal")
    careful = discover(model, images, tau=1e-4, journal=tmp_path / "journal")
    assert careful.kept == discover(model, images, tau=1e-4).kept
    assert careful.kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": -1e-3}, "tau must be a finite number of at least 0, got -0.001"),
        ({"tau": float("nan")}, "tau must be a finite number of at least 0, got nan"),
        ({"metric": "mse"}, "metric must be one of kl, cross-entropy, logit-difference, accuracy, got 'mse'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
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


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_a_circuit_survives_saving_and_loading(tmp_path, pooling):
    model = random_model(9, pooling=pooling)
    images = random_images(model)
    circuit = discover(model, images, tau=0.01, granularity="node-edge")
    circuit.save(tmp_path / "circuit")
    loaded = Circuit.load(tmp_path / "circuit")
    assert loaded.kept == circuit.kept
    assert loaded.trace == circuit.trace
    assert (loaded.method, loaded.metric, loaded.tau, loaded.kl) == ("acdc-node-edge", "kl", 0.01, circuit.kl)
    torch.testing.assert_close(loaded.scores, circuit.scores, equal_nan=True)
    torch.testing.assert_close(loaded.logits(model, images), circuit.logits(model, images))


def test_a_circuit_from_before_there_was_a_choice_reads_the_class_token(tmp_path):
    model = random_model(9)
    circuit = discover(model, random_images(model), tau=0.01)
    circuit.save(tmp_path / "circuit")
    path = tmp_path / "circuit" / "circuit.json"
    content = json.loads(path.read_text())
    del content["graph"]["pooling"]
    path.write_text(json.dumps(content))
    assert Circuit.load(tmp_path / "circuit").graph == circuit.graph


SEARCH = """
import sys
import torch
from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation, discover
model = random_model(5, dtype=torch.float32)
images = random_images(model)
discover(model, images, ablation=Ablation.mean(model, images), tau=1e-3, granularity="node-edge").save(sys.argv[1])
"""


def test_the_order_of_hashes_changes_nothing(tmp_path):
    found = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", SEARCH, folder], check=True, env=environment)
        found.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert len(found[0]) > 1
    assert found[0] == found[1]
