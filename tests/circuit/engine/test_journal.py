"""A search that was interrupted goes on from its journal as if it had not been."""

import itertools
import json
import random
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Decision, Graph, discover
from vitprune.circuit.circuit import ALL_RECEIVERS
from vitprune.circuit.engine import known as known_module
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.engine.journal import Journal
from vitprune.errors import CircuitError


@pytest.mark.fault("a kill between two decisions of the search", "the next run goes on and ends with the same circuit")
@pytest.mark.parametrize("granularity", ["edge", "node-edge"])
@pytest.mark.parametrize(
    ("method", "direction"), [("acdc", "noising"), ("acdc", "denoising"), ("acdc", "both"), ("hybrid", "noising")]
)
def test_an_interrupted_search_goes_on_to_the_same_circuit_from_wherever_it_stopped(
    tmp_path, monkeypatch, granularity, method, direction
):
    monkeypatch.setattr(known_module, "TESTS_BETWEEN_REFRESHES", 10)
    model = random_model(15, dtype=torch.float32)
    images = random_images(model)
    options = {"tau": 0.01, "granularity": granularity, "direction": direction}
    whole = discover(model, images, method, **options)

    class Interrupted(Exception):
        pass

    for stop in range(1, len(whole.trace), len(whole.trace) // 8):
        decisions = itertools.count(1)

        def interrupt(_, last=stop, decisions=decisions):
            if next(decisions) == last:
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
    monkeypatch.setattr(known_module, "TESTS_BETWEEN_REFRESHES", 1)
    model = random_model(15, num_layers=3)
    images = random_images(model)
    discover(model, images, tau=0.01, journal=tmp_path / "journal")
    calls, test = [], IncrementalEvaluator.damage_without
    monkeypatch.setattr(
        IncrementalEvaluator, "damage_without", lambda self, tried: calls.append(tried) or test(self, tried)
    )
    discover(model, images, tau=0.01, journal=tmp_path / "journal")
    assert len(calls) <= len(model.blocks) * 8 + 3


@pytest.mark.fault("a journal of a search with another threshold", "the search starts afresh")
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
    monkeypatch.setattr(known_module, "TESTS_BETWEEN_REFRESHES", 1)
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


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of over 100 decisions: a function that searches with a journal, the circuit, and a whole journal."""
    model = random_model(15, num_layers=4, dtype=torch.float32)
    images, path = random_images(model), tmp_path_factory.mktemp("searched") / "journal"

    def search(journal):
        return discover(model, images, tau=0.01, journal=journal)

    circuit = search(path)
    assert len(circuit.trace) > 100
    assert {decision.action for decision in circuit.trace} == {"removed", "kept", "unreachable"}
    return search, circuit, path.read_text()


def assert_same_circuit(searched, path, content):
    """With this journal the search comes to the same circuit, edge by edge, and the same decisions."""
    search, circuit, _ = searched
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    found = search(path)
    assert found.kept == circuit.kept
    assert [(d.sender, d.receiver, d.action) for d in found.trace] == [
        (d.sender, d.receiver, d.action) for d in circuit.trace
    ]


def altered(line, **changes):
    """A line with other values in its decision."""
    content = json.loads(line)
    content["decision"] |= changes
    return json.dumps(content)


def action_of(line):
    return json.loads(line)["decision"]["action"]


def journals_with_faults(text):
    """Whole journals in which something is wrong, and the number of decisions before it."""
    head, *lines = text.splitlines()
    for n in (0, 90):
        line, before, after = lines[n], lines[:n], lines[n + 1 :]
        for action in {"removed", "kept", "unreachable", "removed-untested", "eaten"} - {action_of(line)}:
            yield [*before, altered(line, action=action), *after], n
        for value in (float("nan"), float("inf"), -1e9, 1e9, None, "0.1"):
            yield [*before, altered(line, after=value), *after], n
        yield [*before, altered(line, sender="m0.g0", receiver="logits"), *after], n
        yield [*before, altered(line, more=1), *after], n
        yield [*before, line[:-9], *after], n
        yield [*before, *after], n
        yield [*before, line, line, *after], n + 1
        yield [*before, after[0], line, *after[1:]], n
        yield [*before, "", line, *after], n
        yield [*before, "null", line, *after], n
        yield [*before, line + line, *after], n
        yield [*before, line + " and more", *after], n
    yield list(reversed(lines)), 0
    yield [*lines, "more", "than that"], len(lines)
    yield [head, *lines], 0


@pytest.mark.fault(
    "a journal of the search with lines that are altered, swapped, doubled, removed or added",
    "the search goes on after the last right line and ends with the same circuit; a log line says so",
)
def test_a_wrong_line_in_a_journal_is_noticed_and_the_circuit_is_the_same(searched, tmp_path, caplog):
    head = searched[2].splitlines()[0]
    caplog.set_level("INFO")
    for lines, right in journals_with_faults(searched[2]):
        caplog.clear()
        assert_same_circuit(searched, tmp_path / "journal", "".join(f"{line}\n" for line in (head, *lines)))
        if right < len(lines):
            assert f"line {right + 2} does not follow" in caplog.text
            assert f"goes on after {right} decisions" in caplog.text


@pytest.mark.fault("a journal of the search that is cut anywhere, or whose bits flipped", "the circuit is the same")
def test_a_journal_that_is_cut_or_has_flipped_bits_gives_the_same_circuit(searched, tmp_path):
    content, rng = searched[2].encode(), random.Random(0)
    for _ in range(7):
        place = rng.randrange(len(content))
        assert_same_circuit(searched, tmp_path / "journal", content[:place])
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        assert_same_circuit(searched, tmp_path / "journal", bytes(flipped))


@pytest.mark.fault("a journal of another version, or a file that is no journal", "the search starts afresh and says so")
@pytest.mark.parametrize("content", ["", "nonsense", b"\xff\xfe\x00", '{"format": 1, "key": "KEY"}\n', "\ud800\n"])
def test_what_is_no_journal_of_this_version_is_not_believed(searched, tmp_path, caplog, content):
    caplog.set_level("INFO")
    if isinstance(content, str):
        content = content.replace("KEY", json.loads(searched[2].splitlines()[0])["key"])
    assert_same_circuit(searched, tmp_path / "journal", content)
    assert "the search starts afresh" in caplog.text


@pytest.mark.fault(
    "a journal with right digests of decisions that this search does not come to",
    "the search starts afresh and says so",
)
@pytest.mark.parametrize("fault", ["swapped", "another action", "another sender"])
def test_decisions_of_other_candidates_are_not_believed(searched, tmp_path, caplog, fault):
    caplog.set_level("INFO")
    decisions = list(searched[1].trace)
    if fault == "swapped":
        decisions[50], decisions[51] = decisions[51], decisions[50]
    elif fault == "another action":
        decisions[50] = replace(decisions[50], action={"kept": "removed"}.get(decisions[50].action, "kept"))
    else:
        decisions[50] = replace(decisions[50], sender="m0.g0" if decisions[50].sender != "m0.g0" else "embed")
    path = tmp_path / "journal"
    with Journal(searched[1].graph, path, json.loads(searched[2].splitlines()[0])["key"]) as journal:
        for decision in decisions:
            journal.record(decision)
    assert_same_circuit(searched, path, path.read_bytes())
    assert "where this search comes to" in caplog.text
    assert path.read_text() == searched[2]


@pytest.mark.fault("a journal that cannot be written", "one sentence names it")
def test_a_journal_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitError, match=r"file/journal: the journal of the search cannot be read or written"):
        Journal(Graph((1,), (4,)), tmp_path / "file" / "journal", "key")
