import pytest
from pydantic import ValidationError

from tests.training.conftest import recipe
from vitprune.training.options import DistillationOptions, FinetuneOptions

FINETUNE = FinetuneOptions(
    epochs=7,
    learning_rate=0.5,
    warmup_epochs=0.25,
    rounds=3,
    scope="all",
    distillation=DistillationOptions(weight=0.9, temperature=1.0, hard=True, feature_weight=2.0),
)


def test_fine_tuning_has_its_own_length_rate_and_teacher_and_the_rest_of_the_baselines_recipe():
    train = recipe(optimizer="muon", clip_norm=0.3)
    own = {"epochs": 7, "learning_rate": 0.5, "warmup_epochs": 0.25, "distillation": FINETUNE.distillation}
    assert FINETUNE.recipe(train) == train.model_copy(update=own)


def test_rounds_share_the_epochs():
    rounds = [FINETUNE.of_round(number) for number in (1, 2, 3)]
    assert [options.epochs for options in rounds] == [2, 2, 3]
    assert {options.rounds for options in rounds} == {1}


@pytest.mark.parametrize("warmup_epochs", [3.0, 4.0])
def test_a_warm_up_that_does_not_end_is_refused(warmup_epochs):
    with pytest.raises(ValidationError, match=r"train\.warmup_epochs \(\d\.0\) must be less than train\.epochs \(3\)"):
        recipe(epochs=3, warmup_epochs=warmup_epochs)


def test_a_warm_up_longer_than_a_round_is_refused():
    with pytest.raises(ValidationError, match=r"finetune\.warmup_epochs \(2\.0\) must be less than the epochs of a"):
        FinetuneOptions.model_validate(FINETUNE.model_dump() | {"warmup_epochs": 2.0})
