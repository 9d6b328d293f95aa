import math

import pytest

from vitprune.model.positions import sincos_positions


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
