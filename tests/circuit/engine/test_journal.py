"""A search that was interrupted goes on from its journal as if it had not been."""

from contextlib import suppress

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Decision, Graph, discover
from vitprune.circuit.circuit import ALL_RECEIVERS
from vitprune.circuit.engine import journal as journal_module
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.engine.journal import Journal
from vitprune.errors import CircuitError


@pytest.mark.parametrize("granularity", ["edge", "node-edge"])
@pytest.mark.parametrize("method", ["acdc", "hybrid"])
def test_an_interrupted_search_goes_on_to_the_same_circuit_from_wherever_it_stopped(
    tmp_path, monkeypatch, granularity, method
):
    monkeypatch.setattr(journal_module, "TESTS_BETWEEN_REFRESHES", 10)
    model = random_model(15, dtype=torch.float32)
    images = random_images(model)
    options = {"tau": 0.01, "granularity": granularity}
    whole = discover(model, images, method, **options)

    class Interrupted(Exception):
        pass

    for stop in range(1, len(whole.trace), len(whole.trace) // 8):

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
    monkeypatch.setattr(IncrementalEvaluator, "damage_without", lambda self, tried: calls.append(tried) or [0.0])
    monkeypatch.setattr(IncrementalEvaluator, "accept", lambda self: None)
    discover(model, images, tau=0.01, journal=tmp_path / "journal")
    assert len(calls) <= len(model.blocks) * 8 + 3


def test_a_journal_of_another_search_is_not_believed(tmp_path):
    model = random_model(16)
    images = random_images(model)
    discover(model, images, tau=1e9, journal=tmp_path / "journal")
    careful = discover(model, images, tau=1e-4, journal=tmp_path / "journal")
    assert careful.kept == discover(model, images, tau=1e-4).kept
    assert careful.kept


def decision(sender, receiver):
    return Decision(sender=sender, receiver=receiver, action="kept", before=0.0, after=1.0)


def test_the_search_over_edges_begins_anew_in_the_layer_where_that_over_nodes_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "TESTS_BETWEEN_REFRESHES", 1)
    graph, path = Graph((1,), (4,)), tmp_path / "journal"
    over_nodes, over_edges = decision("m0", ALL_RECEIVERS), decision("embed", "m0")
    with Journal(graph, path, "key") as journal:
        assert not journal.needs_refresh((True, 0))
        journal.record(over_nodes)
        assert journal.needs_refresh((False, 0))
        journal.record(over_edges)
    with Journal(graph, path, "key") as resumed:
        assert not resumed.needs_refresh((True, 0))
        assert resumed.next_known() == over_nodes
        assert resumed.is_ahead_of_refresh
        resumed.record(over_nodes)
        assert resumed.needs_refresh((False, 0))
        assert resumed.next_known() == over_edges
        assert not resumed.is_ahead_of_refresh
        assert resumed.next_known() is None


def test_a_journal_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitError, match=r"file/journal: the journal of the search cannot be read or written"):
        Journal(Graph((1,), (4,)), tmp_path / "file" / "journal", "key")
