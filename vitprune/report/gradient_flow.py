"""A plot of the size of the gradients of each layer, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from vitprune.report.drawing import drawn
from vitprune.training.gradients import LayerGradient

SMALLEST = 1e-12
"""Smaller gradients are drawn here, because a logarithmic axis has no zero."""


def draw_gradient_flow(path: Path, gradient_flow: Sequence[LayerGradient]) -> None:
    """Write a PNG: mean absolute gradient (log scale) over the layers from input to output, one line per epoch.

    Equal input gives equal bytes. Raises ValueError if there is nothing to draw.
    """
    if not gradient_flow:
        raise ValueError("no gradients to draw: gradient_flow is empty")
    layers = list(dict.fromkeys(gradient.layer for gradient in gradient_flow))
    epochs = sorted({gradient.epoch for gradient in gradient_flow})
    sizes = {(gradient.epoch, gradient.layer): gradient.mean_abs for gradient in gradient_flow}

    with drawn(path, (min(max(7.0, 2.2 + 0.3 * len(layers)), 16.0), 4.6)) as figure:
        axes = figure.add_subplot()
        colours = colormaps["viridis"]
        # With a single epoch, the colour bar would have an empty range.
        scale = Normalize(vmin=epochs[0], vmax=max(epochs[-1], epochs[0] + 1))
        for epoch in epochs:
            heights = [max(sizes.get((epoch, layer), 0.0), SMALLEST) for layer in layers]
            axes.plot(range(len(layers)), heights, color=colours(scale(epoch)), linewidth=1.1, alpha=0.85)
        axes.set_yscale("log")
        axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_xlim(-0.4, len(layers) - 0.6)
        for position, (layer, before) in enumerate(zip(layers[1:], layers[:-1], strict=True), start=1):
            if _block(layer) != _block(before):
                axes.axvline(position - 0.5, color="0.85", linewidth=0.8, zorder=0)
        axes.set_xlabel("weight matrix, from input to output (a: attention, m: MLP, number: layer)")
        axes.set_ylabel("mean |gradient| before clipping")
        axes.set_title("Gradient flow")
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        bar = figure.colorbar(ScalarMappable(norm=scale, cmap=colours), ax=axes, pad=0.02, label="epoch")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def _block(layer: str) -> str:
    """The layer's number in the name of a weight matrix (``"3"`` of ``a3.qkv``), or the name itself."""
    name = layer.partition(".")[0]
    return name[1:] if name[1:].isdigit() else name
