"""The test images that a model is most wrong about.

Legend of dimensions: n  images    c  channels    s  image_size    k  classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from vitprune.report.drawing import drawn, shortened

ACROSS, DOWN = 8, 2
_NAME_LENGTH = 14


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a model says of an image: its class, the predicted one, and the probabilities it gives to both."""

    index: int
    label: int
    predicted: int
    of_label: float
    of_predicted: float


def worst_images(logits: Tensor, labels: np.ndarray, count: int = ACROSS * DOWN) -> list[Opinion]:
    """The images to whose label the model gives the least probability, worst first.

    ``logits`` are ``(n, k)``, ``labels`` ``(n,)``.
    """
    probabilities = logits.cpu().double().softmax(dim=1).numpy()
    of_label = probabilities[np.arange(len(labels)), labels]
    chosen = np.argsort(of_label, kind="stable")[:count]
    predicted = probabilities.argmax(axis=1)
    return [
        Opinion(
            index=index,
            label=int(labels[index]),
            predicted=int(predicted[index]),
            of_label=float(of_label[index]),
            of_predicted=float(probabilities[index, predicted[index]]),
        )
        for index in chosen.tolist()
    ]


def draw_worst(path: Path, opinions: Sequence[Opinion], images: np.ndarray, class_names: Sequence[str]) -> None:
    """Write a PNG of these test images ``(n, c, s, s)``, uint8, with their labels and what was predicted instead."""
    down = -(-len(opinions) // ACROSS)
    wrong = sum(opinion.label != opinion.predicted for opinion in opinions)
    with drawn(path, (1.35 * ACROSS, 1.75 * down + 0.5)) as figure:
        for axes, opinion in zip(figure.subplots(down, ACROSS, squeeze=False).flat, opinions, strict=False):
            pixels = images[opinion.index].transpose(1, 2, 0)
            axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
            name, other = (shortened(class_names[label], _NAME_LENGTH) for label in (opinion.label, opinion.predicted))
            is_wrong = opinion.label != opinion.predicted
            said = f"taken for {other}, {100 * opinion.of_predicted:.0f} %" if is_wrong else "right"
            axes.set_title(f"{name}, {100 * opinion.of_label:.0f} %\n{said}", fontsize=8)
        for axes in figure.axes:
            axes.set_axis_off()
        figure.suptitle(
            f"Test images to whose class the fine-tuned, pruned model gives the least probability: {wrong} of these "
            f"{len(opinions)} are wrong",
            fontsize=11,
        )
