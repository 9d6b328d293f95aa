"""How many heads and neurons pruning left in each layer."""

from __future__ import annotations

from pathlib import Path

from matplotlib.ticker import MaxNLocator

from vitprune.core.model.config import ViTConfig
from vitprune.report.drawing import drawn


def draw_kept(path: Path, config: ViTConfig) -> None:
    """Write a PNG: heads and neurons of each layer of a pruned model, in outlines of what was there before."""
    layers = range(config.num_layers)
    with drawn(path, (min(3.5 + 0.8 * config.num_layers, 16), 3.2)) as figure:
        heads, neurons = figure.subplots(1, 2)
        for axes, name, before, kept in (
            (heads, "heads", config.num_heads, config.layer_heads),
            (neurons, "neurons", config.d_mlp, config.layer_neurons),
        ):
            axes.bar(layers, [before] * len(layers), color="none", edgecolor="0.6", linestyle="--")
            axes.bar(layers, kept, color="#0072b2", edgecolor="#0072b2")
            for layer, count in zip(layers, kept, strict=True):
                axes.annotate(
                    str(count), (layer, count), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=9
                )
            axes.set(xlabel="layer", title=f"{sum(kept):,} of {before * len(layers):,} {name} kept", xticks=layers)
            axes.set_ylim(0, 1.15 * before)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
