from __future__ import annotations

import pytest
import torch

from vitprune.training.randomness import Purpose, seed_for, seeded_global_rng

CPU = torch.device("cpu")


def test_every_place_and_purpose_has_a_seed_of_its_own() -> None:
    seeds = {
        seed_for(seed, purpose, epoch, step)
        for seed in range(3)
        for purpose in Purpose
        for epoch in range(4)
        for step in range(4)
    }
    assert len(seeds) == 3 * len(Purpose) * 4 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_do_not_change_between_versions() -> None:
    assert seed_for(0, Purpose.ORDER, 1) == 4324601099084218337


def test_the_global_generator_is_put_back_after_an_exception() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded_global_rng(7, CPU):
        torch.rand(5) @ torch.rand(6)
    assert torch.equal(torch.get_rng_state(), before)


def test_inside_the_numbers_follow_the_seed() -> None:
    numbers = []
    for seed in (7, 7, 8):
        with seeded_global_rng(seed, CPU):
            numbers.append(torch.rand(3))
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])
