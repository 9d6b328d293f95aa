from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from tests.training.conftest import recipe, tiny_model, train_tiny
from vitprune.training.forward import WholeBatchRandomness


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 10)])
def test_a_ranks_random_numbers_are_its_rows_of_the_whole_batchs(rows):
    model = tiny_model(dropout=0.3, drop_path=0.5).train()
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    whole = model(images)
    torch.manual_seed(0)
    with WholeBatchRandomness(rows, 10):
        share = model(images[rows])
    assert torch.allclose(share, whole[rows], atol=1e-6)
    torch.manual_seed(0)
    assert not torch.allclose(model(images[rows]), whole[rows], atol=1e-6) or rows.start == 0


def test_dropout_that_is_off_stays_off():
    x = torch.ones(3, 4)
    with WholeBatchRandomness(slice(0, 3), 6):
        assert nn.Dropout(0.5).eval()(x) is x
        assert torch.equal(nn.functional.dropout(x, 0.0), x)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_learns_the_same(splits):
    plain, compiled = tiny_model(), tiny_model()
    first = train_tiny(plain, *splits)
    second = train_tiny(compiled, *splits, recipe=recipe(compile=True))
    for mine, theirs in zip(second.history, first.history, strict=True):
        assert (mine.train_loss, mine.val_loss) == pytest.approx((theirs.train_loss, theirs.val_loss), abs=1e-4)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
