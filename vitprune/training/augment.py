"""Augmentation of whole batches on their device, with random parameters for each image.

Legend of dimensions:
    b  images in the batch    c  channels

``augment_images`` moves, recolours, disturbs and erases pixels before normalisation; ``mix`` blends images and labels
after it. Both depend on their arguments alone, the seed among them. An operation that is switched off costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from vitprune.training.options import AugmentOptions

CROP_ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop, relative to the image (Szegedy et al. 2015, arXiv 1409.4842)."""
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Share of the image and height over width of an erased rectangle (Zhong et al. 2020, arXiv 1708.04896)."""
POLICY_GROUPS = 16
"""Number of groups of a batch for which a policy draws separate operations."""


def augment_images(images: Tensor, params: AugmentOptions, *, seed: int) -> Tensor:
    """Move, recolour, disturb and erase float images ``(b, c, height, width)`` with values between 0 and 1.

    Flip, crop and rotation are one resampling, so pixels are interpolated once. Noise may leave the interval. The
    operations on each image depend on the seed alone; the values of noise and erased pixels also on the kind of device.
    """
    original = images
    # The few numbers for each image are drawn on the CPU, those for each pixel on the device.
    choices = torch.Generator().manual_seed(seed)
    pixels = torch.Generator(images.device).manual_seed(seed)
    if params.horizontal_flip or params.crop_scale_min < 1 or params.rotation_degrees:
        images = resample(images, draw_affine(images.shape, params, choices).to(images, non_blocking=True))
    if params.policy:
        images = _apply_policy(images, params, seed)
    if params.noise_std:
        images = torch.empty_like(images).normal_(std=params.noise_std, generator=pixels).add_(images)
    if params.erasing:
        images = images.clone() if images is original else images
        _erase_(images, params.erasing, choices, pixels)
    return images


def mix(
    images: Tensor, labels: Tensor, params: AugmentOptions, *, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Blend each image of ``(b, c, height, width)`` and its label with its neighbour's, by CutMix or MixUp.

    Returns images and targets: probabilities ``(b, num_classes)``, or the ``labels`` ``(b,)`` if both are switched off.
    If both are switched on, each batch gets one of them with equal probability.
    """
    if not (params.cutmix_alpha or params.mixup_alpha):
        return images, labels
    # Late, as below: importing it takes as long as importing torch.
    from torchvision.transforms import v2

    choices: list[v2.CutMix | v2.MixUp] = []
    if params.cutmix_alpha:
        choices.append(v2.CutMix(alpha=params.cutmix_alpha, num_classes=num_classes))
    if params.mixup_alpha:
        choices.append(v2.MixUp(alpha=params.mixup_alpha, num_classes=num_classes))
    with _seeded(seed):
        chosen = choices[int(torch.randint(len(choices), ()))]
        return chosen(images, labels)


def draw_affine(shape: torch.Size, params: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Random matrices ``(b, 2, 3)`` that map a position in the new image to its position in the old one.

    Positions are the coordinates of ``affine_grid``, in which −1 and 1 are the image's outer edges. The operations on
    an image are, in order: crop and resize, rotate about the centre, flip.
    """
    b, _, height, width = shape
    new = torch.zeros
    matrices = new(b, 2, 3)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    if params.horizontal_flip:
        flipped = _uniform(new(b), (0, 1), generator) < params.horizontal_flip
        matrices[:, 0, 0] = torch.where(flipped, -1.0, 1.0)
    if params.rotation_degrees:
        limit = math.radians(params.rotation_degrees)
        angle = _uniform(new(b), (-limit, limit), generator)
        cos, sin = angle.cos(), angle.sin()
        # Angles hold in pixels: in relative coordinates, a rotation would shear an image that is not square.
        rows = (torch.stack([cos, -sin * height / width], 1), torch.stack([sin * width / height, cos], 1))
        matrices[:, :, :2] = torch.stack(rows, 1) @ matrices[:, :, :2]
    if params.crop_scale_min < 1:
        area = _uniform(new(b), (params.crop_scale_min, 1), generator)
        root = _uniform(new(b), (math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])), generator).div(2).exp()
        size = torch.stack([area.sqrt() * root, area.sqrt() / root], 1).clamp(max=1)
        matrices *= size[:, :, None]
        matrices[:, :, 2] = (1 - size) * _uniform(new(b, 2), (-1, 1), generator)
    return matrices


def resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample images ``(b, c, height, width)`` by ``matrices`` ``(b, 2, 3)``: bilinear, mirrored at the edges."""
    height, width = images.shape[2:]
    x, y = (
        torch.arange(1 - size, size, 2, dtype=images.dtype, device=images.device)[:, None] / size
        for size in (width, height)
    )
    across, down = matrices[:, None, :, 0] * x, matrices[:, None, :, 1] * y + matrices[:, None, :, 2]
    # This is affine_grid without its matrix product, which takes as long as the resampling. Complex numbers add x and y
    # in one operation.
    across, down = torch.view_as_complex(across.contiguous()), torch.view_as_complex(down.contiguous())
    grid = torch.view_as_real(down[:, :, None] + across[:, None])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _apply_policy(images: Tensor, params: AugmentOptions, seed: int) -> Tensor:
    """RandAugment (Cubuk et al. 2019, arXiv 1909.13719) or TrivialAugment (Müller & Hutter 2021, arXiv 2103.10158).

    torchvision draws one set of operations per call, so a batch is changed in groups.
    """
    from torchvision.transforms import v2

    if params.policy == "randaugment":
        policy: v2.Transform = v2.RandAugment(magnitude=params.policy_magnitude)
    else:
        policy = v2.TrivialAugmentWide()
    with _seeded(seed):
        return torch.cat([policy(group) for group in images.clamp(0, 1).chunk(POLICY_GROUPS)])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global CPU generator, from which torchvision draws, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _erase_(images: Tensor, probability: float, choices: torch.Generator, pixels: torch.Generator) -> None:
    """Fill one rectangle of each chosen image with uniform noise, in place (random erasing, Zhong et al. 2020)."""
    b, _, height, width = images.shape
    (chosen,) = torch.nonzero(torch.rand(b, generator=choices) < probability, as_tuple=True)
    new, count = torch.zeros, len(chosen)
    area = _uniform(new(count), ERASED_AREA, choices)
    root = _uniform(new(count), (math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])), choices).div(2).exp()
    rows = (area.sqrt() * root * height).round().clamp(1, height)
    columns = (area.sqrt() / root * width).round().clamp(1, width)
    top = (torch.rand(count, generator=choices) * (height - rows + 1)).floor()
    left = (torch.rand(count, generator=choices) * (width - columns + 1)).floor()
    y, x = torch.arange(height), torch.arange(width)
    in_rows = (y >= top[:, None]) & (y < (top + rows)[:, None])
    in_columns = (x >= left[:, None]) & (x < (left + columns)[:, None])
    erase_mask = (in_rows[:, None, :, None] & in_columns[:, None, None]).to(images.device, non_blocking=True)
    chosen = chosen.to(images.device, non_blocking=True)
    before = images.index_select(0, chosen)
    noise = _uniform(torch.empty_like(before), (0, 1), pixels)
    images.index_copy_(0, chosen, torch.where(erase_mask, noise, before))


def _uniform(out: Tensor, limits: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Fill ``out`` with uniform random numbers between the limits."""
    return out.uniform_(*limits, generator=generator)
