"""A grid of training images as the model sees them, augmented and mixed, with their labels.

Legend of dimensions:
    b  images    c  channels
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vitprune.report.drawing import drawn, shortened

ROWS, COLUMNS = 4, 8
NAME_LENGTH = 14


def draw_augmented(path: Path, images: Tensor, targets: Tensor, class_names: tuple[str, ...]) -> None:
    """Write a PNG of the first images ``(b, c, height, width)``, values from 0 to 1, with ``targets (b, classes)``.

    Equal input gives equal bytes.
    """
    with drawn(path, (1.5 * COLUMNS, 1.85 * ROWS)) as figure:
        figure.suptitle("Training images, augmented and mixed, and their labels")
        for axes, image, target in zip(figure.subplots(ROWS, COLUMNS).flat, images, targets, strict=False):
            pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
            axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            axes.set_xlabel(_label(target, class_names), fontsize=7)
        for axes in figure.axes:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)


def _label(target: Tensor, class_names: tuple[str, ...]) -> str:
    """The two largest classes of an image with their shares, or its class alone if the image is not mixed."""
    shares, classes = target.topk(min(2, len(target)))
    names = [shortened(class_names[c], NAME_LENGTH) for c in classes.tolist()]
    # A share below half a percent cannot be seen.
    if len(names) == 1 or shares[1] < 0.005:
        return names[0]
    return "\n".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, shares.tolist(), strict=True))
