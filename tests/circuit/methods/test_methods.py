"""What all methods have in common: their names, their options, and how a new one is added."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import METHODS, discover
from vitprune.circuit.discovery import discover_by_params, problem_by_params, rankings
from vitprune.circuit.methods import Ranking, check_acdc_options
from vitprune.circuit.problem import Problem
from vitprune.circuit.ranking import top_edges
from vitprune.circuit.sample import Sample
from vitprune.errors import CircuitError, ConfigError
from vitprune.params import load_params, parse_params

ROOT = Path(__file__).parents[3]
RANKINGS = [name for name, method in METHODS.items() if isinstance(method, Ranking)]


@pytest.fixture(scope="module")
def params():
    return load_params(ROOT / "params.yaml").acdc


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("method", RANKINGS)
def test_a_ranking_keeps_at_most_the_wanted_number_and_leaves_nothing_dangling(method, pooling):
    model = random_model(5, num_layers=3, pooling=pooling)
    circuit = discover(model, random_images(model), method, num_edges=25)
    assert len(circuit.kept) <= 25
    assert torch.equal(circuit.graph.close(circuit.keep_mask), circuit.keep_mask)
    assert top_edges(circuit.graph, circuit.scores, 25).sum() == 25
    assert (circuit.scores[~circuit.graph.all_edges] == 0).all()


@pytest.mark.parametrize("method", RANKINGS)
def test_a_ranking_by_tau_keeps_the_edges_that_score_as_much(method):
    model = random_model(5)
    images = random_images(model)
    scores = discover(model, images, method, num_edges=0).scores
    tau = scores.abs().flatten().sort(descending=True).values[20].item()
    circuit = discover(model, images, method, tau=tau)
    assert circuit.tau == tau
    assert torch.equal(circuit.keep_mask, circuit.graph.close(circuit.graph.all_edges & (scores.abs() >= tau)))


@pytest.mark.parametrize("method", [name for name in RANKINGS if name not in ("random", "edge-pruning", "ensemble")])
def test_scores_do_not_depend_on_the_batching(method):
    model = random_model(6)
    images = random_images(model, count=7)
    at_once, batched = (discover(model, images, method, num_edges=9, batch_size=size).scores for size in (None, 3))
    torch.testing.assert_close(batched, at_once)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "magic",
            {},
            "method must be one of acdc, hybrid, eap, eap-ig, eap-ig-activations, relp, edge-pruning, ",
        ),
        (
            "eap",
            {"metric": "kl", "num_edges": 3},
            "^metric kl does not suit method eap: .* gradient there is zero",
        ),
        (
            "eap",
            {"metric": "accuracy", "num_edges": 3},
            "^metric accuracy does not suit method eap: it has no",
        ),
        ("eap-ig", {"metric": "accuracy", "num_edges": 3}, "does not suit method eap-ig: it has no gradient"),
        ("hybrid", {"metric": "accuracy", "tau": 0.1}, "does not suit method hybrid: it has no gradient"),
        (
            "eap-ig",
            {"direction": "both", "num_edges": 3},
            "direction both is for method acdc; set it to noising",
        ),
        ("hybrid", {"direction": "denoising", "tau": 0.1}, "direction denoising is for method acdc"),
        ("acdc", {"direction": "up", "tau": 0.1}, "direction must be one of noising, denoising, both, got 'up'"),
        ("eap-ig", {"ig_steps": 0, "num_edges": 3}, "ig_steps must be at least 1, got 0"),
        ("eap-ig", {"steps": 3}, "unknown options steps; known are tau, num_edges"),
        ("eap", {}, "either tau or num_edges; got tau None and num_edges None"),
        ("eap", {"tau": 0.1, "num_edges": 3}, "either tau or num_edges; got tau 0.1 and num_edges 3"),
        ("eap", {"tau": -1.0}, "tau must be a finite number of at least 0, got -1.0"),
        ("random", {"num_edges": 10_000}, r"num_edges must be from 0 to \d+, got 10000"),
        ("random", {"num_edges": -1}, "num_edges must be at least 0, got -1"),
        ("acdc", {"num_edges": 5}, r"num_edges \(5\) is for methods that rank edges; acdc goes by tau"),
        ("acdc", {}, "tau is missing"),
        ("acdc", {"tau": 0.1, "candidates": 0}, "candidates must be at least 1, got 0"),
        ("hybrid", {"tau": 0.1, "low": 2.0, "high": 1.0}, "low and high must be"),
    ],
)
def test_options_that_a_method_cannot_use_are_refused(method, options, message):
    model = random_model()
    with pytest.raises(CircuitError, match=message):
        discover(model, random_images(model), method, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, r"acdc\.method must be one of acdc, .*, got 'magic'"),
        (
            {"method": "eap", "metric": "kl"},
            r"^params: acdc\.metric kl does not suit acdc\.method eap: .*set acdc\.metric",
        ),
        (
            {"method": "hybrid", "metric": "accuracy"},
            r"^params: acdc\.metric accuracy does not suit acdc\.method hybrid",
        ),
        (
            {"method": "acdc", "num_edges": 5},
            r"acdc\.num_edges \(5\) is for .* goes by acdc\.tau: set acdc\.num_edges",
        ),
    ],
)
def test_params_that_do_not_suit_their_method_are_refused_with_their_keys(change, message):
    content = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    content["acdc"] |= change
    with pytest.raises(ConfigError, match=message):
        parse_params(content)


@pytest.mark.parametrize("method", METHODS)
def test_params_run_the_method_that_they_name(params, method):
    model = random_model(5)
    images = random_images(model)
    metric = "cross-entropy" if method in ("eap", "relp") else "kl"
    wanted = params.model_copy(update={"method": method, "metric": metric, "mlp_groups": 1, "granularity": "edge"})
    check_acdc_options(wanted)
    labels = model(images).argmax(-1)
    ablation = discover(model, images, "random", num_edges=0).ablation
    problem = problem_by_params(wanted, model, Sample(images=images, labels=labels), ablation)
    found = discover_by_params(wanted, problem)
    assert found.kept == discover(model, images, method, labels=labels, tau=params.tau, metric=metric).kept


def test_logits_that_are_not_finite_are_refused():
    model = random_model()
    with pytest.raises(CircuitError, match="logits are not finite"):
        discover(model, random_images(model) * torch.nan, "eap", num_edges=3)


def test_the_documents_example_is_a_complete_method(monkeypatch, params):
    section = (ROOT / "docs" / "discovery.md").read_text("utf-8").split("## Add a method")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    module = {"__name__": "closeness"}
    exec(code, module)
    monkeypatch.setitem(METHODS, "closeness", module["CLOSENESS"])

    model = random_model(5, num_layers=3)
    images = random_images(model)
    circuit = discover(model, images, "closeness", num_edges=100)
    assert circuit.kept
    neighbours = circuit.graph.mask_of([("embed", "a0.h0.q"), ("a2.h1", "m2"), ("m2", "logits")])
    assert circuit.scores[neighbours].tolist() == [1.0, 1.0, 1.0]
    assert circuit.scores[circuit.graph.mask_of([("embed", "logits")])].item() == pytest.approx(1 / 7)
    wanted = params.model_copy(update={"method": "closeness", "num_edges": 9})
    check_acdc_options(wanted)
    curves = rankings(wanted, circuit, Problem.of(model, images))
    quick = ["eap", "eap_ig", "eap_ig_activations", "relp", "activation", "random"]
    assert list(curves) == ["found", *quick, "closeness"]
