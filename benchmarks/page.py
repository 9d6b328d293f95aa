"""How large and how smooth the page is: bytes, time to open, frames a second while the circuit is dragged.

python -m benchmarks.page > benchmarks/results/page.md

The circuits are synthetic: all edges of the graphs of a small and of a large model, with random scores, so that the
explorer draws every one of them. Chromium runs headless and without a GPU, which is the slowest way to draw.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput

from tests.report.page.conftest import random_run, start_browser
from vitprune.circuit import Circuit, Graph
from vitprune.core.compute.device import describe_machine
from vitprune.evaluation.table import Table
from vitprune.report.markdown import to_markdown
from vitprune.report.page import Run, write_page

GRAPHS = {
    "4 layers of 4 heads and 8 groups, as by default": Graph((4,) * 4, (128,) * 4, True, 8),
    "12 layers of 8 heads": Graph((8,) * 12, (512,) * 12, True, 1),
}
REPETITIONS, MOVES = 5, 60
COUNT_FRAMES = "window.before = explorer.frames; window.since = performance.now()"
FRAMES = "return [explorer.frames - window.before, performance.now() - window.since]"


def synthetic(run: Run, graph: Graph) -> Run:
    """The run with a circuit of all edges of a graph, and without a model to compute with."""
    scores = torch.rand(graph.all_edges.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    circuit = Circuit(
        graph=graph, keep_mask=graph.all_edges, ablation=run.circuit.ablation, kl=0.0, method="synthetic", scores=scores
    )
    return replace(run, circuit=circuit, found=replace(run.found, model_data=None, heads=[]))


def opened(browser: webdriver.Chrome, page: Path) -> float:
    """Seconds until the page is there and the first frame is drawn."""
    browser.get("about:blank")
    start = time.perf_counter()
    browser.get(page.as_uri())
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return time.perf_counter() - start


def frames_per_second(browser: webdriver.Chrome) -> float:
    """Frames that are drawn in a second while a pointer drags the circuit to and fro."""
    graph = browser.find_element("id", "graph")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", graph)
    time.sleep(0.5)
    browser.execute_script(COUNT_FRAMES)
    actions = ActionBuilder(browser, mouse=PointerInput("mouse", "mouse"), duration=16)
    pointer = actions.pointer_action
    pointer.move_to(graph, 0, 0).pointer_down()
    for move in range(MOVES):
        pointer.move_to(graph, 3 * (move if move < MOVES // 2 else MOVES - move), move % 7)
    pointer.pointer_up()
    actions.perform()
    frames, milliseconds = browser.execute_script(FRAMES)
    return 1000 * frames / milliseconds


def main() -> None:
    run, rows = random_run(), []
    browser = start_browser()
    if browser is None:
        sys.exit("error: no Chromium and chromedriver; install Debian's chromium-driver")
    version = browser.capabilities["browserVersion"]
    with tempfile.TemporaryDirectory() as folder:
        for name, graph in GRAPHS.items():
            page = Path(folder) / "index.html"
            write_page(page, synthetic(run, graph))
            seconds = sorted(opened(browser, page) for _ in range(REPETITIONS))
            rates = sorted(frames_per_second(browser) for _ in range(REPETITIONS))
            size = f"{page.stat().st_size / 1e6:.2f} MB"
            middle = REPETITIONS // 2
            rows.append(
                (
                    name,
                    f"{len(graph.edges):,}",
                    size,
                    f"{seconds[middle]:.2f} s ({seconds[0]:.2f}–{seconds[-1]:.2f})",
                    f"{rates[middle]:.0f} ({rates[0]:.0f}–{rates[-1]:.0f})",
                )
            )
    browser.quit()
    machine = describe_machine(torch.device("cpu"))
    table = Table(
        headers=("graph", "edges, all drawn", "page", "opened and drawn", "frames a second in a drag"),
        rows=tuple(rows),
        caption=f"Medians of {REPETITIONS}, with the least and the most. Chromium {version}, headless, no GPU, "
        f"1280 × 900 pixels; {machine['device']}.",
    )
    sys.stdout.write(f"# The page: size, time to open, smoothness\n\n{to_markdown(table)}")


if __name__ == "__main__":
    main()
