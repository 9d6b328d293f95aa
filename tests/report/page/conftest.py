"""A real browser, and pages of small runs for it to open."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from tests.training.conftest import PREPROCESSING, random_split, tiny_model
from vitprune.circuit import Ablation, Circuit, Graph, discover
from vitprune.core.model import SavedModel, ViT
from vitprune.core.packed import PackedData
from vitprune.evaluation.models import MODELS
from vitprune.evaluation.table import model_table
from vitprune.recipes.report import find
from vitprune.report.page import Run, write_page

CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cat", "dog")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def start_browser() -> webdriver.Chrome | None:
    """Chromium without a window; None if it is not installed."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.set_window_size(1280, 900)
    return started


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """A browser for all tests of a process."""
    started = start_browser()
    if started is None:
        pytest.skip("needs Chromium and its chromedriver (Debian's chromium-driver)")
    yield started
    started.quit()


@pytest.fixture
def look(browser: webdriver.Chrome) -> Callable[..., webdriver.Chrome]:
    """Open a page in a window of a size and theme."""

    def opened(page: Path, *, width: int = 1280, dark: bool = False, address: str = "") -> webdriver.Chrome:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(f"{page.as_uri()}{address}")
        ready = "return document.documentElement.dataset.ready"
        WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(ready))
        return browser

    return opened


def random_run(*, seed: int = 0, ablation: str = "mean", mlp_groups: int = 2, split: bool = True, **shape: Any) -> Run:
    """A run with a small random model, whose circuit a real search found."""
    model = tiny_model(seed, **shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    splits = {"train": random_split(16), "val": random_split(16, 1), "test": random_split(32, 2)}
    packed = PackedData(**splits, class_names=CLASSES, mean=(0.5,), std=(0.3,))
    images = PREPROCESSING(torch.from_numpy(packed.train.images))
    circuit = discover(
        model,
        images,
        "acdc",
        graph=Graph.of(model, split_qkv=split, mlp_groups=mlp_groups),
        ablation=_ablation(ablation, model, images),
        tau=0.01,
    )
    saved = SavedModel(model=model, preprocessing=PREPROCESSING, class_names=CLASSES)
    return run_of(packed, circuit, saved)


def _ablation(kind: str, model: ViT, images: torch.Tensor) -> Ablation:
    if kind == "zero":
        return Ablation.zero(model)
    if kind == "noise":
        return Ablation.noise(model, 0.5, seed=3)
    return Ablation.mean(model, images) if kind == "mean" else Ablation.resample(model, images, seed=3)


def run_of(packed: PackedData, circuit: Circuit, saved: SavedModel) -> Run:
    """What the report stage shows of a circuit, its model, and a pruned model, which is here the same."""
    found = find(packed, circuit, saved, saved, CPU)
    scores: dict[str, Any] = {
        model.name: {"loss": 0.5, "accuracy": 0.75, "parameters": 1234, "multiply_adds": 10**6, "bytes": 10**5}
        for model in MODELS
    }
    scores["circuit"] = {"loss": 0.7, "accuracy": 0.5, "edges": len(circuit.graph.edges), "edges_kept": 7}
    scores |= {"dataset": "noise", "test_images": 32, "largest_class_share": 0.25, "seed": 3}
    latency = {"median_ms": 4.0, "speedup": 1.5}
    timing: dict[str, Any] = {model.name: {"batch_8": latency} for model in MODELS} | {"loader": {"batch_8": latency}}
    timing |= {"machine": {"device": "a CPU", "threads": 2, "torch": "2.15"}, "rounds": 5, "dtype": "float32"}
    epochs = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.7]})
    epochs["val_accuracy"] = [0.5, 0.7]
    points = [{"method": "found", "edges": edges, "recovered": edges / 10, "accuracy": 0.5} for edges in (0, 5, 10)]
    return Run(
        dataset="noise",
        params={"compute": {"seed": 3}},
        scores=scores,
        timing=timing,
        table=model_table(scores, timing),
        faithfulness={"edges": len(circuit.kept), "recovered": 0.8, "accuracy": 0.5},
        cleaning={"kept": 64, "found": 64, "ignored": 0, "images": {"train": 16, "val": 16, "test": 32}},
        tables={"train": epochs, "finetune_pruned": epochs, "faithfulness": pd.DataFrame(points)},
        packed=packed,
        circuit=circuit,
        pruned=saved.model.config,
        found=found,
        versions={"commit": "abc", "torch": "2.15"},
    )


def with_classes(run: Run, names: tuple[str, ...]) -> Run:
    """The same run with other names of classes."""
    return replace(run, packed=replace(run.packed, class_names=names))


@pytest.fixture(scope="session")
def run() -> Run:
    return random_run()


@pytest.fixture(scope="session")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run."""
    path = tmp_path_factory.mktemp("reports") / "index.html"
    write_page(path, run)
    return path


def keep_mask_of(run: Run, gone: set[str], changed: dict[tuple[str, str], bool]) -> torch.Tensor:
    """The edges that are left of the circuit with nodes taken away and edges switched."""
    graph, mask = run.circuit.graph, run.circuit.keep_mask.clone()
    for (sender, receiver), on in changed.items():
        mask[graph.receiver_index[receiver], graph.sender_index[sender]] = on
    for name in gone:
        mask[:, graph.sender_index[name]] = False
    return mask


def wanted_logits(run: Run, model: ViT, mask: torch.Tensor) -> np.ndarray:
    """Logits of the masked model in Python on the images that the page computes with."""
    images = PREPROCESSING(torch.from_numpy(run.packed.test.images[run.found.chosen]))
    circuit = replace(run.circuit, keep_mask=mask)
    # One by one, because ablations may depend on the number of an image among all test images.
    one_by_one = zip(run.found.chosen.tolist(), images, strict=True)
    return torch.cat([circuit.logits(model, image[None], first=index) for index, image in one_by_one]).numpy()
