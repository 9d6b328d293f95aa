from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.training.conftest import tiny_model
from vitprune.core.compute import distributed
from vitprune.core.compute.distributed import World
from vitprune.training.randomness import Purpose, WholeBatchRandomness, dropout_seed, seed_for, seeded_global_rng

CPU = torch.device("cpu")


def test_every_position_and_purpose_has_its_own_seed() -> None:
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


def test_the_global_generator_is_restored_after_an_exception() -> None:
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


def test_ranks_of_a_compiled_model_drop_differently_and_others_alike(monkeypatch) -> None:
    alone = seed_for(0, Purpose.DROPOUT, 1, 2)
    seeds = {True: [], False: []}
    for world in (World(), World(0, 3), World(1, 3), World(2, 3)):
        monkeypatch.setattr(distributed, "_world", world)
        for is_compiled, found in seeds.items():
            found.append(dropout_seed(0, 1, 2, is_compiled=is_compiled))
    assert seeds[False] == [alone] * 4
    assert seeds[True][0] == alone
    assert len(set(seeds[True])) == 4


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 10)])
def test_a_rank_draws_its_rows_of_the_whole_batch(rows):
    model = tiny_model(dropout=0.3, drop_path=0.5).train()
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    whole = model(images)
    torch.manual_seed(0)
    with WholeBatchRandomness(rows, 10):
        share = model(images[rows])
    assert torch.allclose(share, whole[rows], atol=1e-6)


def test_dropout_that_is_off_stays_off():
    x = torch.ones(3, 4)
    with WholeBatchRandomness(slice(0, 3), 6):
        assert nn.Dropout(0.5).eval()(x) is x
        assert torch.equal(nn.functional.dropout(x, 0.0), x)
