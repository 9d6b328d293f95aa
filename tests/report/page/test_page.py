"""The page in a real browser: what it computes, and whether it can be used."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.report.page.conftest import keep_mask_of, random_run, wanted_logits, with_classes
from tests.training.conftest import tiny_model
from vitprune.report.page import write_page
from vitprune.report.page.explorer import explorer_data, removal_steps

RAW_LOGITS = "return model.logits.map((row) => Array.from(row))"
LOGITS = f"if (pending) showOutcome(keptEdges()); {RAW_LOGITS}"
"""On a slow machine the page computes a moment after a change, for which the tests do not wait."""
SLIDE = "const s = document.getElementById('step'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
GROUND = "return getComputedStyle(document.documentElement).backgroundColor"
NONSENSE = (
    "#circuit?view=both",
    "#circuit?view=toString",
    "#circuit?step=x&node=zz&without=logits,zz&edges=-a>b,,",
    "#circuit?",
    "#%E0%A4%A",
    "#circuit?step=-5",
)


def model_of(seed: int = 0, **shape):
    """The model that ``random_run`` makes."""
    model = tiny_model(seed, **shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


CASES = {
    "as by default": {},
    "heads as a whole": {"split": False, "mlp_groups": 1},
    "mean pooling, zero ablation": {"pooling": "mean", "ablation": "zero"},
    "another image in place of what is removed": {"ablation": "resample"},
    "noise in place of what is removed": {"ablation": "noise", "mlp_groups": 3},
    "layers of other shapes": {"heads_per_layer": (2, 0, 1), "neurons_per_layer": (0, 20, 32), "num_layers": 3},
    "a pruned model's biases for each token": {"token_biases": True},
    "shifted patches, fixed positions": {"patch_embedding": "shifted", "positions": "sincos"},
}


@pytest.mark.parametrize("case", CASES)
def test_fifty_random_changes_give_the_logits_of_the_masked_model(look, tmp_path, case):
    run = random_run(seed=5, **CASES[case])
    shape = {key: value for key, value in CASES[case].items() if key not in ("split", "mlp_groups", "ablation")}
    model, graph = model_of(5, **shape), run.circuit.graph
    write_page(tmp_path / "index.html", run)
    browser = look(tmp_path / "index.html")
    rng = np.random.default_rng(0)
    gone: set[str] = set()
    changed: dict[tuple[str, str], bool] = {}
    largest = 0.0
    for _ in range(50):
        if rng.random() < 0.4:
            name = graph.senders[rng.integers(len(graph.senders))].name
            gone ^= {name}
            browser.execute_script("toggleNode(arguments[0])", name)
        else:
            sender, receiver = graph.edges[rng.integers(len(graph.edges))]
            on = bool(rng.random() < 0.5)
            changed[sender, receiver] = on
            browser.execute_script(
                "state.changed.set(edgeOf.get(arguments[0]), arguments[1]); update()", f"{sender}>{receiver}", int(on)
            )
        found = np.array(browser.execute_script(LOGITS))
        wanted = wanted_logits(run, model, keep_mask_of(run, gone, changed))
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)
        largest = max(largest, float(np.abs(wanted).max()))
    assert largest > 0.5


def test_the_page_opens_with_the_circuit_and_without_a_complaint(look, page, run):
    browser = look(page)
    assert browser.get_log("browser") == []
    edges = f"{len(run.circuit.kept)} of {len(run.circuit.graph.edges)} edges left"
    assert browser.find_element(By.ID, "step-text").text.endswith(edges)
    np.testing.assert_allclose(
        browser.execute_script(LOGITS), wanted_logits(run, model_of(), run.circuit.keep_mask), atol=1e-4
    )
    charts = browser.find_elements(By.CSS_SELECTOR, ".chart svg")
    places = browser.find_elements(By.CSS_SELECTOR, ".chart")
    # This run left no gradients and no moves of pruning.
    missing = [place for place in places if place.text == "Not there: the run left no figures for this."]
    assert (len(charts), len(missing)) == (len(places) - 2, 2)


@pytest.mark.alone
def test_the_page_opens_within_two_seconds(look, page):
    look(page)
    browser = look(page)
    times = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"
    assert browser.execute_script(times) < 2000


def test_the_slider_goes_through_the_removals_and_the_figures_follow(look, page, run):
    browser = look(page)
    steps = removal_steps(run.circuit)
    for step in (0, 1, int(steps.max()) // 2, int(steps.max())):
        browser.execute_script(SLIDE, step)
        left = run.circuit.graph.all_edges & torch.from_numpy((steps == 0) | (steps > step))
        assert f"{int(left.sum())} of" in browser.find_element(By.ID, "step-text").text
        np.testing.assert_allclose(browser.execute_script(LOGITS), wanted_logits(run, model_of(), left), atol=1e-4)
    browser.find_element(By.ID, "whole").click()
    browser.execute_script(LOGITS)
    assert browser.find_element(By.ID, "figures").text.startswith("KL 0.0000 nats")


def test_a_box_is_found_chosen_and_taken_away_with_the_keyboard_alone(look, page):
    browser = look(page)
    browser.find_element(By.ID, "search").send_keys("a1.h0")
    assert browser.find_element(By.ID, "node-title").text == "a1.h0"
    before = browser.execute_script(LOGITS)
    browser.find_element(By.ID, "whole").send_keys(Keys.ENTER)
    whole = browser.execute_script(LOGITS)
    assert whole != before
    graph = browser.find_element(By.ID, "graph")
    graph.send_keys(Keys.ENTER)
    assert browser.execute_script(LOGITS) != whole
    assert not browser.find_element(By.ID, "node-on").is_selected()
    graph.send_keys(Keys.ENTER)
    assert browser.execute_script(LOGITS) == whole
    for key, name in ((Keys.ARROW_DOWN, "a1.h1"), (Keys.ARROW_LEFT, "m0.g1"), (Keys.ARROW_RIGHT, "a1.h1")):
        graph.send_keys(key)
        assert browser.find_element(By.ID, "node-title").text == name
    graph.send_keys("+", "-", "0", Keys.ESCAPE)
    assert browser.find_element(By.ID, "node-title").text == "Nothing is chosen"


def test_a_click_chooses_the_box_under_it_and_its_edges_can_be_switched(look, page, run):
    browser = look(page)
    place = browser.execute_script(
        "const {x, y} = explorer.position.get('m1.g0'), [px, py] = explorer.transform.apply([x, y]),"
        "box = explorer.canvas.getBoundingClientRect();"
        "explorer.canvas.dispatchEvent(new MouseEvent('click',"
        "{clientX: box.left + px, clientY: box.top + py, bubbles: true})); return state.node"
    )
    assert place == "m1.g0"
    browser.find_element(By.ID, "whole").click()
    boxes = browser.find_elements(By.CSS_SELECTOR, "#node-edges input")
    edges = [edge for edge in run.circuit.graph.edges if "m1.g0" in edge]
    assert len(boxes) == len(edges)
    before = browser.execute_script(LOGITS)
    boxes[0].click()
    assert browser.execute_script(LOGITS) != before
    browser.find_element(By.ID, "reset").click()
    assert browser.execute_script(LOGITS) == before


def test_an_address_shows_what_its_sender_saw(look, page):
    browser = look(page)
    browser.execute_script("state.step = 3; choose('a0.h1'); toggleNode('m0.g1')")
    browser.execute_script("state.changed.set(edgeOf.get('embed>a0.h0.q'), 0); update()")
    seen = browser.execute_script(LOGITS)
    browser.execute_async_script("setTimeout(arguments[0], 400)")
    address = browser.current_url
    again = look(page, address=address[address.index("#") :])
    assert again.execute_script(LOGITS) == seen
    assert again.find_element(By.ID, "node-title").text == "a0.h1"
    for nonsense in NONSENSE:
        browser = look(page, address=nonsense)
        assert browser.get_log("browser") == []
        assert browser.execute_script("return model.logits.length") > 0


def test_what_is_shown_can_be_taken_along(look, page, run):
    browser = look(page)
    found = json.loads(browser.execute_script("return explorer.json()"))
    assert {(edge["sender"], edge["receiver"]) for edge in found["edges"]} == set(run.circuit.kept)
    drawn = ElementTree.fromstring(browser.execute_script("return explorer.svg()"))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}path")) == len(run.circuit.kept)
    dot = browser.execute_script("return explorer.dot()")
    assert dot.count(" -> ") == len(run.circuit.kept)


def test_what_was_changed_last_is_computed_even_if_that_takes_long(look, page, run):
    browser = look(page)
    browser.execute_script("lastTook = 1000; state.step = 0; update()")
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    whole = wanted_logits(run, model_of(), run.circuit.graph.all_edges)
    np.testing.assert_allclose(browser.execute_script(RAW_LOGITS), whole, atol=1e-4)


def test_a_browser_that_allows_no_addresses_shows_the_page_all_the_same(look, page):
    browser = look(page)
    browser.execute_script("history.replaceState = () => { throw new Error('too many') }; state.step = 0; update()")
    browser.execute_async_script("setTimeout(arguments[0], 400)")
    assert browser.get_log("browser") == []


def test_the_graph_fits_its_place_when_the_window_changes(look, page):
    scales = []
    for width in (1280, 700):
        browser = look(page, width=width)
        scales.append(browser.execute_script("return explorer.transform.k"))
    metrics = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert browser.execute_script("return explorer.transform.k") == pytest.approx(scales[0]) != scales[1]


def test_keys_of_the_browser_stay_its_own(look, page):
    browser = look(page)
    zoom = "new KeyboardEvent('keydown', {key: '+', ctrlKey: true, cancelable: true})"
    assert browser.execute_script(f"return explorer.canvas.dispatchEvent({zoom})")


@pytest.mark.parametrize("dark", [False, True])
def test_the_theme_is_the_readers(look, page, dark):
    browser = look(page, dark=dark)
    red, green, blue = map(int, re.findall(r"\d+", browser.execute_script(GROUND))[:3])
    assert (red + green + blue < 200) == dark
    assert browser.get_log("browser") == []


def test_nothing_is_wider_than_a_phone(look, page):
    browser = look(page, width=400)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400


def test_each_head_has_its_picture(look, page, run):
    browser = look(page)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#head option")) == len(run.found.heads)
    for view in run.found.heads:
        browser.execute_script("showHead(arguments[0])", view.name)
        assert len(browser.find_elements(By.CSS_SELECTOR, "#head-view canvas")) == 5


def test_the_text_says_what_was_removed_what_it_cost_and_which_head_matters_most(look, page, run):
    text = look(page).find_element(By.ID, "summary").text
    best = max(run.found.heads, key=lambda view: float(view.kl.mean()))
    assert f"The head that matters most to the baseline is {best.name}" in text
    assert "Pruning removed 0 of 4 heads and 0 of 64 neurons from the weights." in text
    assert "has 1.50× at batch 8 of the baseline’s speed" in text
    assert "right on 75.00 % of 32 test images" in text
    assert "is right on 75.00 %: as many." in text


@pytest.mark.fault("class names that are code of a web page", "the page shows them as they are, and runs nothing")
def test_names_are_shown_and_not_run(look, run, tmp_path):
    names = ("</script><script>window.broken = 1</script>", "<img src=x onerror='window.broken = 1'>", "a & b", '"c"')
    write_page(tmp_path / "index.html", with_classes(run, names))
    browser = look(tmp_path / "index.html")
    assert browser.execute_script("return window.broken") is None
    assert browser.get_log("browser") == []
    assert browser.execute_script("return DATA.classes") == list(names)


def test_equal_runs_give_equal_pages(run, page, tmp_path):
    write_page(tmp_path / "index.html", run)
    assert (tmp_path / "index.html").read_bytes() == page.read_bytes()
    assert page.stat().st_size < 5_000_000


def test_the_page_needs_no_network(page: Path):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)


def test_a_large_model_is_left_out_with_a_word(look, run, tmp_path):
    write_page(tmp_path / "index.html", replace(run, found=replace(run.found, model_data=None)))
    browser = look(tmp_path / "index.html")
    assert "too large to compute with" in browser.find_element(By.ID, "outcome").text
    browser.execute_script("toggleNode('a0.h1')")
    assert browser.get_log("browser") == []


def test_a_model_is_right_on_every_image_only_if_it_is(look, run, tmp_path):
    """Its least certain answers may all be right, and others wrong all the same."""
    labels = torch.from_numpy(run.packed.test.labels)
    for logits, is_said in ((run.found.logits, False), (torch.eye(4)[labels], True)):
        write_page(tmp_path / "index.html", replace(run, found=replace(run.found, worst=[], logits=logits)))
        text = look(tmp_path / "index.html").find_element(By.ID, "mistakes").text
        assert ("It is right on every test image." in text) == is_said


def test_without_a_trace_the_edges_go_by_their_scores(run):
    circuit = replace(run.circuit, trace=())
    steps = removal_steps(circuit)
    removed = (circuit.graph.all_edges & ~circuit.keep_mask).numpy()
    assert sorted(steps[removed].tolist()) == list(range(1, int(removed.sum()) + 1))
    scores = circuit.scores.abs().nan_to_num(0).numpy()[removed]
    assert (np.diff(scores[np.argsort(steps[removed])]) >= 0).all()


def test_the_steps_of_a_search_end_at_its_circuit(run):
    data = explorer_data(run.circuit)
    kept = {
        (data["senders"][sender]["name"], data["receivers"][receiver]["name"])
        for sender, receiver, step in zip(*(data["edges"][key] for key in ("sender", "receiver", "step")), strict=True)
        if step == 0
    }
    assert kept == set(run.circuit.kept)
    assert data["steps"] == max(data["edges"]["step"])


def test_edges_that_the_samples_are_divided_about_are_told_apart(run):
    assert explorer_data(run.circuit)["edges"]["undecided"] is None
    edges = run.circuit.graph.all_edges
    shares = torch.full(edges.shape, torch.nan, dtype=torch.float64)
    shares[edges] = torch.linspace(0, 1, int(edges.sum()), dtype=torch.float64)
    data = explorer_data(replace(run.circuit, frequency=shares))["edges"]
    assert data["frequency"] == [round(float(share), 3) for share in shares[edges]]
    assert data["undecided"] == [int(0.05 < share < 0.95) for share in shares[edges].tolist()]


def test_a_circuit_is_shown_beside_another_one(look, run, tmp_path):
    generator = torch.Generator().manual_seed(0)
    graph = run.circuit.graph
    mask = graph.all_edges & (torch.rand(graph.all_edges.shape, generator=generator) < 0.5)
    other = replace(run.circuit, keep_mask=mask)
    write_page(tmp_path / "page.html", replace(run, other=other, other_name="three & <eight>"))
    browser = look(tmp_path / "page.html")
    assert "Beside three & <eight>:" in browser.find_element(By.ID, "explorer").text
    ours, theirs = set(run.circuit.kept), set(other.kept)
    wanted = {"other": theirs, "both": ours & theirs, "here": ours - theirs, "there": theirs - ours}
    for view, edges in wanted.items():
        browser.find_element(By.CSS_SELECTOR, f"[data-view={view}]").click()
        shown = json.loads(browser.execute_script("return explorer.json()"))["edges"]
        assert {(edge["sender"], edge["receiver"]) for edge in shown} == edges
        np.testing.assert_allclose(
            browser.execute_script(LOGITS), wanted_logits(run, model_of(), graph.mask_of(list(edges))), atol=1e-4
        )
    browser.execute_async_script("setTimeout(arguments[0], 400)")
    address = browser.current_url
    again = look(tmp_path / "page.html", address=address[address.index("#") :])
    assert again.find_element(By.CSS_SELECTOR, "[data-view=there]").get_attribute("aria-pressed") == "true"
    again.find_element(By.ID, "found").click()
    shown = json.loads(again.execute_script("return explorer.json()"))["edges"]
    assert {(edge["sender"], edge["receiver"]) for edge in shown} == ours


def test_undecided_edges_are_pale_and_say_how_many_samples_keep_them(look, run, tmp_path):
    edges, (row, column) = run.circuit.graph.all_edges, torch.nonzero(run.circuit.keep_mask)[0].tolist()
    shares = torch.where(edges, 0.5, torch.nan).double()
    shares[row, column] = 1.0
    gates = {run.circuit.kept[0]: "OR"}
    write_page(tmp_path / "page.html", replace(run, circuit=replace(run.circuit, frequency=shares, gates=gates)))
    browser = look(tmp_path / "page.html")
    drawn = ElementTree.fromstring(browser.execute_script("return explorer.svg()"))
    opacities = [path.get("opacity") for path in drawn.findall("{http://www.w3.org/2000/svg}path")]
    assert sorted(opacities) == ["0.28"] * (len(run.circuit.kept) - 1) + ["0.75"]
    alphas = browser.execute_script("return Array.from(explorer.paths.values()).map((path) => path.alpha)")
    assert set(alphas) == {0.28, 0.75}
    assert "undecided" in browser.find_element(By.CSS_SELECTOR, ".legend").text
    browser.execute_script("choose(arguments[0])", run.circuit.graph.receivers[row].node.name)
    listed = browser.find_element(By.ID, "node-edges").text
    assert listed.count("OR, in 100 % of samples") == 1
    assert "in 50 % of samples" in listed
