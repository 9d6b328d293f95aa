"""A heat map of the size of the gradients, layer by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitprune.report.drawing import drawn
from vitprune.training.gradients import LayerGradient

NO_GRADIENT = "#d62728"
"""The colour of a weight matrix without gradients, which learns nothing."""


def draw_gradient_flow(path: Path, gradient_flow: Sequence[LayerGradient]) -> None:
    """Write a PNG: mean absolute gradient (log scale), a row per weight matrix and a column per epoch.

    Equal input gives equal bytes. Raises ValueError if there is nothing to draw.
    """
    if not gradient_flow:
        raise ValueError("no gradients to draw: gradient_flow is empty")
    layers = list(dict.fromkeys(gradient.layer for gradient in gradient_flow))
    epochs = sorted({gradient.epoch for gradient in gradient_flow})
    sizes = np.zeros((len(layers), len(epochs)))
    for gradient in gradient_flow:
        sizes[layers.index(gradient.layer), epochs.index(gradient.epoch)] = gradient.mean_abs
    there = sizes[sizes > 0]
    low, high = (there.min(), there.max()) if there.size else (1e-12, 1.0)

    with drawn(path, (8.0, min(max(3.4, 1.6 + 0.2 * len(layers)), 16.0))) as figure:
        axes = figure.add_subplot()
        axes.set_facecolor(NO_GRADIENT)
        scale = LogNorm(vmin=low, vmax=high if high > low else 10 * low)
        edges = np.array([epochs[0] - 0.5, *(epoch + 0.5 for epoch in epochs)])
        mesh = axes.pcolormesh(
            edges, np.arange(len(layers) + 1) - 0.5, np.ma.masked_less_equal(sizes, 0), norm=scale, cmap="viridis"
        )
        axes.invert_yaxis()
        axes.set_yticks(range(len(layers)), layers, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        for position, (layer, before) in enumerate(zip(layers[1:], layers[:-1], strict=True), start=1):
            if _block(layer) != _block(before):
                axes.axhline(position - 0.5, color="white", linewidth=1)
        axes.set_xlabel("epoch")
        axes.set_ylabel("weight matrix, from input to output\n(a: attention, m: MLP, number: layer)")
        axes.set_title(
            "Gradient flow while the baseline trains\n"
            "A row far darker than its neighbours learns slowly; a red one learns nothing",
            fontsize=10,
        )
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, label="mean |gradient| before clipping")
        # Matplotlib's own labels of powers are mathematics, which is not drawn as such here.
        bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")
        bar.update_ticks()
        bar.minorticks_off()


def _block(layer: str) -> str:
    """The layer's number in the name of a weight matrix (``"3"`` of ``a3.qkv``), or the name itself."""
    name = layer.partition(".")[0]
    return name[1:] if name[1:].isdigit() else name
