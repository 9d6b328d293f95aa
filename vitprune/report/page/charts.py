"""The charts of the page, as Vega-Lite specifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

Spec = dict[str, Any]

_NAMES = alt.Axis(labelAngle=-60, labelOverlap=True, labelLimit=120)
_NAMES_DOWN = alt.Axis(labelOverlap=True, labelLimit=120)


def _data(rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> alt.Data:
    if isinstance(rows, pd.DataFrame):
        # JSON has no NaN.
        rows = [
            {str(name): None if pd.isna(value) else value for name, value in row.items()}
            for row in rows.to_dict("records")
        ]
    return alt.Data(values=list(rows))


def _spec(chart: Any, height: int, description: str) -> Spec:
    spec = chart.properties(width="container", height=height, description=description).to_dict()
    # One theme serves all charts, and follows the page's.
    spec.pop("config", None)
    return spec


def accuracy_against_time(points: Sequence[Mapping[str, Any]], batch_size: int) -> Spec:
    """Points with ``name``, ``kind``, ``speedup``, ``accuracy`` and ``front``; the legend names the kinds.

    The front joins the experiments that no other beats in speed and accuracy.
    """
    kinds = list(dict.fromkeys(point["kind"] for point in points))
    base = alt.Chart(_data(points)).encode(
        x=alt.X(
            "speedup:Q",
            title=f"times as fast as the baseline, batch {batch_size}",
            scale=alt.Scale(zero=False, padding=20),
        ),
        y=alt.Y(
            "accuracy:Q", title="test accuracy", axis=alt.Axis(format=".2~%"), scale=alt.Scale(zero=False, padding=20)
        ),
    )
    marks = base.mark_point(filled=True, size=110, opacity=0.85).encode(
        shape=alt.Shape("kind:N", sort=kinds, legend=None),
        color=alt.Color("kind:N", title=None, sort=kinds),
        tooltip=["name:N", alt.Tooltip("speedup:Q", format=".2f"), alt.Tooltip("accuracy:Q", format=".2%")],
    )
    if not any(point["front"] for point in points):
        return _spec(marks, 280, "test accuracy against speed, a point for each model")
    front = base.transform_filter("datum.front").mark_line(strokeDash=[4, 3], color="#888")
    return _spec(front + marks, 280, "test accuracy against speed, a point for each model")


def kept_per_layer(rows: Sequence[Mapping[str, Any]], what: str) -> Spec:
    """Rows with ``layer``, ``before`` and ``kept``; ``what`` names them."""
    base = alt.Chart(_data(rows)).encode(x=alt.X("layer:O", axis=alt.Axis(labelAngle=0)))
    before = base.mark_bar(fillOpacity=0, strokeDash=[3, 3], strokeWidth=1, stroke="#888").encode(
        y=alt.Y("before:Q", title=what)
    )
    kept = base.mark_bar().encode(
        y=alt.Y("kept:Q", title=what), tooltip=["layer:O", "kept:Q", "before:Q"], color=alt.value("#0072b2")
    )
    return _spec(before + kept, 180, f"{what} of each layer, before pruning and after")


def costs_of_heads(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Rows with ``head``, ``kl`` and ``in_circuit``, in the order of the model."""
    chart = (
        alt.Chart(_data(rows))
        .mark_bar()
        .encode(
            x=alt.X("head:N", sort=None, title="head", axis=alt.Axis(labelAngle=-60, labelOverlap=True)),
            y=alt.Y("kl:Q", title="KL without it, nats"),
            color=alt.Color("in_circuit:N", title=None, sort=["in the circuit", "not in it"]),
            tooltip=[
                "head:N",
                alt.Tooltip("kl:Q", format=".4g"),
                alt.Tooltip("lost:Q", format=".2%", title="accuracy lost"),
            ],
        )
    )
    return _spec(chart, 200, "KL of the baseline without each of its heads")


def epochs(tables: Mapping[str, pd.DataFrame], column: str, title: str, number_format: str) -> Spec:
    """A line for each table over its epochs; a table without the column is left out."""
    rows = [
        {"epoch": int(epoch), "value": float(value), "which": name}
        for name, table in tables.items()
        if column in table
        for epoch, value in zip(table["epoch"], table[column], strict=True)
    ]
    chart = (
        alt.Chart(_data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=12))
        .encode(
            x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(format=number_format), scale=alt.Scale(zero=False)),
            color=alt.Color("which:N", title=None, sort=list(tables)),
            strokeDash=alt.StrokeDash("which:N", sort=list(tables), legend=None),
            tooltip=["which:N", "epoch:Q", alt.Tooltip("value:Q", format=number_format)],
        )
    )
    return _spec(chart, 200, f"{title}, epoch by epoch")


def gradient_flow(table: pd.DataFrame) -> Spec:
    """A heat map of the mean absolute gradient: a row for each weight matrix, a column for each epoch."""
    layers = list(dict.fromkeys(table["layer"]))
    base = alt.Chart(_data(table[["epoch", "layer", "mean_abs"]])).encode(
        x=alt.X("epoch:O", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
        y=alt.Y("layer:N", title=None, scale=alt.Scale(domain=layers)),
        tooltip=["layer:N", "epoch:O", alt.Tooltip("mean_abs:Q", format=".3g")],
    )
    scale = alt.Scale(type="log", scheme="viridis")
    colour = alt.Color("mean_abs:Q", title="mean |gradient|", scale=scale, legend=alt.Legend(format=".1g"))
    there = base.transform_filter("datum.mean_abs > 0").mark_rect().encode(color=colour)
    if (table["mean_abs"] > 0).all():
        chart = there
    else:
        chart = there + base.transform_filter("!(datum.mean_abs > 0)").mark_rect(color="#d62728")
    return _spec(chart, max(120, 16 * len(layers)), "mean absolute gradient of each weight matrix, epoch by epoch")


def faithfulness(rows: Sequence[Mapping[str, Any]], edges: int) -> Spec:
    """Rows with ``method``, ``edges`` kept (of ``edges``), ``recovered`` and ``accuracy``; each method in order."""
    chart = (
        alt.Chart(_data(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("edges:Q", title=f"edges kept, of {edges:,}", scale=alt.Scale(type="symlog", constant=edges / 100)),
            y=alt.Y("recovered:Q", title="recovered share of the KL", scale=alt.Scale(domain=[-0.5, 1], clamp=True)),
            color=alt.Color("method:N", title=None, sort=None),
            strokeDash=alt.StrokeDash("method:N", sort=None, legend=None),
            tooltip=[
                "method:N",
                "edges:Q",
                alt.Tooltip("recovered:Q", format=".3f"),
                alt.Tooltip("accuracy:Q", format=".2%"),
            ],
        )
    )
    return _spec(chart, 260, "recovered share of the KL against the number of edges, a line for each ranking")


def confusion(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Spec:
    """Rows with ``actual``, ``predicted``, ``count`` and ``share`` of the actual class."""
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("predicted:N", sort=list(class_names), title="predicted class", axis=_NAMES),
        y=alt.Y("actual:N", sort=list(class_names), title="true class", axis=_NAMES_DOWN),
        tooltip=["actual:N", "predicted:N", "count:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    cells = base.mark_rect().encode(
        color=alt.Color("share:Q", title="share", scale=alt.Scale(scheme="blues", domain=[0, 1]))
    )
    numbers = base.mark_text(fontSize=10).encode(
        text="count:Q", color=alt.condition("datum.share > 0.5", alt.value("white"), alt.value("black"))
    )
    few, height = len(class_names) <= 20, min(600, max(180, 24 * len(class_names)))
    return _spec(
        alt.layer(cells, numbers) if few else cells,
        height,
        "how many test images of each class were taken for which",
    )


def pruning(table: pd.DataFrame) -> Spec:
    """KL of the pruned model against its predicted milliseconds, move by move."""
    chart = (
        alt.Chart(_data(table))
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "milliseconds:Q", scale=alt.Scale(zero=False, reverse=True), title="predicted milliseconds, falling"
            ),
            y=alt.Y("kl:Q", title="KL to the baseline, nats", scale=alt.Scale(type="symlog", constant=0.001)),
            order=alt.Order("milliseconds:Q", sort="descending"),
            tooltip=[
                "unit:N",
                "action:N",
                alt.Tooltip("kl:Q", format=".4g"),
                alt.Tooltip("milliseconds:Q", format=".3f"),
            ],
        )
    )
    return _spec(chart, 200, "KL of the pruned model against its predicted milliseconds, move by move")
