import math

import pytest
import torch

from vitprune.core.model.embedding import ShiftedPatches, sincos_positions


def pixel_of(images, channel, y, x):
    """A pixel, or 0 outside the image."""
    inside = 0 <= y < images.shape[2] and 0 <= x < images.shape[3]
    return images[0, channel, y, x].item() if inside else 0.0


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shifted_patches_see_the_image_and_four_copies_shifted_by_half_a_patch(size):
    patches = ShiftedPatches(2, size, 4)
    images = torch.randn(1, 2, 2 * size, 2 * size, generator=torch.Generator().manual_seed(size))
    seen = []
    patches.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = patches(images)
    assert tokens.shape == (1, 4, 4)
    half = size // 2
    for token in range(4):
        top, left = size * (token // 2), size * (token % 2)
        expected = [
            pixel_of(images, channel, top + p + down, left + q + right)
            for p in range(size)
            for q in range(size)
            for down, right in ((0, 0), (-half, -half), (-half, half), (half, -half), (half, half))
            for channel in range(2)
        ]
        assert seen[0][0, token].tolist() == pytest.approx(expected)
    torch.testing.assert_close(tokens, patches.linear(patches.norm(seen[0])))


def test_a_change_within_half_a_patch_of_it_changes_a_token():
    patches = ShiftedPatches(1, 4, 8)
    torch.manual_seed(0)
    images = torch.randn(1, 1, 12, 12)
    for y, x, changed in ((5, 5, {0, 1, 3, 4}), (0, 0, {0}), (6, 6, {4, 5, 7, 8}), (0, 11, {2}), (3, 3, {0, 1, 3, 4})):
        other = images.clone()
        other[0, 0, y, x] += 1
        difference = (patches(other) - patches(images)).abs().amax(dim=(0, 2))
        assert set((difference > 1e-6).nonzero().flatten().tolist()) == changed


def test_each_patch_gets_sines_and_cosines_of_its_column_then_of_its_row():
    found = sincos_positions(3, 8)
    assert found.shape == (9, 8)
    for row in range(3):
        for column in range(3):
            # Two frequencies for a quarter of the width: 1 and 10,000^(-1/2).
            expected = [
                turn(place * frequency)
                for place in (column, row)
                for turn in (math.sin, math.cos)
                for frequency in (1, 0.01)
            ]
            assert found[3 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_no_two_patches_have_the_same_position():
    found = sincos_positions(14, 32)
    assert len({tuple(position) for position in found.tolist()}) == 14**2
