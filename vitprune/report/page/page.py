"""Put the page together: text and tables by Jinja, charts by Vega-Lite, the explorer by scripts of our own.

Everything goes into the one file, libraries included, so that it opens anywhere and for as long as there are browsers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import numpy as np
import pandas as pd
import vl_convert
from torch import Tensor

from vitprune.circuit import Circuit
from vitprune.circuit.heads import HeadView
from vitprune.core.model.vit import ViTConfig
from vitprune.core.packed import PackedData
from vitprune.evaluation.models import BASELINE, MODELS
from vitprune.evaluation.table import Table
from vitprune.report.confusion import confusion_matrix
from vitprune.report.page import charts
from vitprune.report.page.explorer import explorer_data
from vitprune.report.page.facts import facts_of
from vitprune.report.page.images import data_uri
from vitprune.report.pareto import Experiment, pareto_front
from vitprune.report.worst import Opinion
from vitprune.storage import write_text

ASSETS = files("vitprune.report.page") / "assets"
IMAGES_OF_A_HEAD = 4
"""Images on which removing a head costs most."""
MAX_THUMBNAILS = 96
"""Of what cleaning dropped or doubts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What is found for the page, of a circuit, its model, and the pruned model, on test images.

    ``chosen`` and ``viewed`` are the indices of the images that the page computes with and that heads are viewed on,
    ``logits (N, classes)`` those of the pruned model.
    """

    chosen: np.ndarray
    viewed: np.ndarray
    model_data: Mapping[str, Any] | None
    heads: list[HeadView]
    logits: Tensor
    worst: list[Opinion]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """All that the page shows of one run of the pipeline.

    ``scores`` and ``timing`` are those of the evaluation, which make ``table``; ``faithfulness`` is the circuit's.
    ``tables`` are those in plots/ and data/clean by their names, as far as they are there. ``other`` is a circuit to
    compare with.
    """

    dataset: str
    params: Mapping[str, Any]
    scores: Mapping[str, Any]
    timing: Mapping[str, Any]
    table: Table
    faithfulness: Mapping[str, Any]
    cleaning: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    packed: PackedData
    circuit: Circuit
    pruned: ViTConfig
    found: Findings
    versions: Mapping[str, str]
    experiments: Sequence[Experiment] = field(default=())
    other: Circuit | None = None
    other_name: str = ""


def write_page(path: Path, run: Run) -> None:
    """Write the page. Equal runs give equal bytes."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((ASSETS / "page.html.j2").read_text("utf-8"))
    write_text(path, template.render(**_context(run)))


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed in one script, as the package vl-convert-python brings them."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    # Its names, which are short, would be those of all scripts.
    return f"(() => {{{bundle}}})();"


def _script(text: str) -> str:
    """A script that may stand within HTML."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _json(value: Any) -> str:
    """JSON that may stand within a script of HTML."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _context(run: Run) -> dict[str, Any]:
    packed, circuit = run.packed, run.circuit
    closed = set(circuit.closed().live_nodes)
    head_rows = [
        {
            "head": view.name,
            "kl": float(view.kl.mean()),
            "lost": view.lost,
            "in_circuit": "in the circuit" if view.name in closed else "not in it",
        }
        for view in run.found.heads
    ]
    matrix = confusion_matrix(run.found.logits, packed.test.labels)
    cleaning = _cleaning_rows(run)
    pictures = Pictures(packed.test.images)
    heads = [_head_data(view, run, pictures) for view in run.found.heads]
    data = {
        "graph": explorer_data(circuit, run.other),
        "model": run.found.model_data,
        "classes": list(packed.class_names),
        "images": [
            {"picture": pictures.add(index), "label": int(packed.test.labels[index])}
            for index in run.found.chosen.tolist()
        ],
        "heads": heads,
        "pictures": pictures.addresses,
        "charts": _charts(run, head_rows, matrix),
    }
    return {
        "run": run,
        "facts": facts_of(run.pruned, run.scores, run.timing, circuit, run.found.heads),
        "table": run.table,
        "head_rows": sorted(head_rows, key=lambda row: -row["kl"]),
        "worst": [
            {"uri": data_uri(packed.test.images[opinion.index]), "opinion": opinion}
            for opinion in run.found.worst
            if opinion.label != opinion.predicted
        ],
        "wrong": int(matrix.sum() - matrix.trace()),
        "num_thumbnails": len(cleaning),
        "thumbnails": _with_pictures(cleaning[:MAX_THUMBNAILS], run),
        "class_names": packed.class_names,
        "params": _flat(run.params),
        "data": _json(data),
        "css": (ASSETS / "page.css").read_text("utf-8"),
        "scripts": [
            _script(text)
            for text in (
                _vega(),
                *(
                    (ASSETS / name).read_text("utf-8")
                    for name in ("vendor/d3.min.js", "model.js", "explorer.js", "page.js")
                ),
            )
        ],
    }


class Pictures:
    """Images that the page shows, each of them once."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images
        self._places: dict[int, int] = {}
        self.addresses: list[str] = []

    def add(self, index: int) -> int:
        """Where an image stands among the addresses."""
        if index not in self._places:
            self._places[index] = len(self.addresses)
            self.addresses.append(data_uri(self._images[index]))
        return self._places[index]


def _head_data(view: HeadView, run: Run, pictures: Pictures) -> dict[str, Any]:
    """A head for ``page.js``: its attention on average and on the images that need it most, from 0 to 255."""
    worst = view.kl.argsort(descending=True)[:IMAGES_OF_A_HEAD].tolist()
    return {
        "name": view.name,
        "attention": _bytes(view.attention.mean(dim=0)),
        "kl": float(view.kl.mean()),
        "lost": view.lost,
        "images": [
            {
                "picture": pictures.add(int(run.found.viewed[index])),
                "label": int(run.packed.test.labels[run.found.viewed[index]]),
                "kl": float(view.kl[index]),
                "attention": _bytes(view.attention[index]),
            }
            for index in worst
        ],
    }


def _bytes(attention: Tensor) -> list[int]:
    return (255 * attention / attention.max().clamp_min(1e-12)).round().int().tolist()


def _charts(run: Run, head_rows: list[dict[str, Any]], matrix: np.ndarray) -> dict[str, charts.Spec]:
    tables, config = run.tables, run.pruned
    layers = range(config.num_layers)
    found: dict[str, charts.Spec] = {"time": _time_chart(run)}
    for name, before, kept in (
        ("heads", config.num_heads, config.layer_heads),
        ("neurons", config.d_mlp, config.layer_neurons),
    ):
        rows = [{"layer": layer, "before": before, "kept": kept[layer]} for layer in layers]
        found[f"kept-{name}"] = charts.kept_per_layer(rows, name)
    if head_rows:
        found["heads"] = charts.costs_of_heads(head_rows)
    if "train" in tables:
        train = {"training images": tables["train"].assign(loss=tables["train"]["train_loss"])}
        train["validation images"] = tables["train"].assign(loss=tables["train"]["val_loss"])
        found["loss"] = charts.epochs(train, "loss", "loss of the baseline", ".3~f")
    recovery = {
        label: tables[name]
        for name, label in (("finetune_pruned", "pruned"), ("finetune_baseline", "control"))
        if name in tables
    }
    if recovery:
        found["recovery"] = charts.epochs(recovery, "val_accuracy", "validation accuracy", ".1%")
    if "gradient_flow" in tables:
        found["gradients"] = charts.gradient_flow(tables["gradient_flow"])
    if "prune" in tables and len(tables["prune"]):
        found["pruning"] = charts.pruning(tables["prune"])
    if "faithfulness" in tables:
        found["faithfulness"] = charts.faithfulness(_faithfulness_rows(run), len(run.circuit.graph.edges))
    found["confusion"] = charts.confusion(_confusion_rows(matrix, run.packed.class_names), run.packed.class_names)
    return found


def _time_chart(run: Run) -> charts.Spec:
    scores, timing = run.scores, run.timing
    size = max(timing[BASELINE.name], key=lambda key: int(key.removeprefix("batch_")))
    experiments = list(run.experiments)
    front = {(point.speedup, point.accuracy) for point in pareto_front(experiments)}
    points = [
        {"name": model.label, "kind": model.label, "speedup": timing[model.name][size]["speedup"], "front": False}
        | {"accuracy": scores[model.name]["accuracy"]}
        for model in MODELS
    ]
    points += [
        {"name": point.name, "kind": "experiment", "speedup": point.speedup, "accuracy": point.accuracy}
        | {"front": (point.speedup, point.accuracy) in front}
        for point in experiments
    ]
    return charts.accuracy_against_time(points, int(size.removeprefix("batch_")))


def _faithfulness_rows(run: Run) -> list[dict[str, Any]]:
    """Curves of the rankings; that of a search ends at its circuit, beyond which it ranks nothing."""
    circuit, found = run.circuit, f"{run.circuit.method} (found)"
    point = dict(run.faithfulness) | {"method": found}
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        | {"method": found if row["method"] == "found" else row["method"].replace("_", "-")}
        for row in run.tables["faithfulness"].to_dict("records")
    ]
    own = [row for row in rows if row["method"] == found and not (circuit.trace and row["edges"] >= point["edges"])]
    return [*own, point, *(row for row in rows if row["method"] != found)]


def _confusion_rows(matrix: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "actual": names[actual],
            "predicted": names[other],
            "count": int(matrix[actual, other]),
            "share": float(matrix[actual, other] / matrix[actual].sum()),
        }
        for actual, other in zip(*np.nonzero(matrix), strict=True)
    ]


def _cleaning_rows(run: Run) -> list[dict[str, Any]]:
    """What cleaning dropped or doubts; ``picture`` is the image itself, or the one that stays in its place."""
    if "manifest" not in run.tables:
        return []
    manifest = run.tables["manifest"].fillna("")
    dropped = manifest[manifest["action"] == "dropped"]
    rows = [
        {"name": row["name"], "what": row["reason"], "detail": row["detail"] or _of(row["duplicate_of"])}
        | {"picture": row["duplicate_of"]}
        for row in dropped.to_dict("records")
    ]
    kept = set(manifest[manifest["action"] == "kept"]["name"])
    if "near_duplicates" in run.tables:
        rows += [
            {"name": row["copy"], "what": "near duplicate, kept", "detail": _of(row["original"])}
            | {"picture": row["original"]}
            for row in run.tables["near_duplicates"].to_dict("records")
            if row["copy"] in kept
        ]
    if "quality" in run.tables:
        rows += [
            {"name": row["name"], "what": f"{row['doubts']}, kept", "detail": "", "picture": row["name"]}
            for row in run.tables["quality"].to_dict("records")
        ]
    return rows


def _with_pictures(rows: Sequence[dict[str, Any]], run: Run) -> list[dict[str, Any]]:
    """The rows with an address for each picture, None where the image is not among the packed ones."""
    if not rows:
        return []
    manifest = run.tables["manifest"]
    kept = manifest[manifest["action"] == "kept"]
    # Packed images are in the order of their names.
    position: dict[str, tuple[str, int]] = {
        str(name): (str(split), number)
        for split, group in kept.groupby("split", sort=False)
        for number, name in enumerate(group["name"])
    }

    def picture(name: str) -> str | None:
        split, number = position.get(name, ("", 0))
        images = getattr(run.packed, split).images if split else []
        return data_uri(images[number]) if number < len(images) else None

    return [row | {"uri": picture(row["picture"])} for row in rows]


def _of(name: str) -> str:
    return f"of {name}" if name else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
