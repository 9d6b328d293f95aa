import torch

from tests.recipes.conftest import CPU, OPTIONS
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.recipes.train import train_baseline
from vitprune.training.fit import TrainingProgress


def test_the_scores_are_those_of_the_model_that_is_returned(packed):
    epochs, steps = [], []
    progress = TrainingProgress(on_epoch=epochs.append, on_step=lambda *step: steps.append(step))
    done = train_baseline(packed, OPTIONS.model, OPTIONS.train, OPTIONS.compute, CPU, progress=progress)
    logits = predict(done.saved.model, packed.val.images, done.saved.preprocessing)
    assert done.scores["val"] == score(logits, packed.val.labels).as_metrics()
    assert [record.epoch for record in epochs] == [1, 2]
    assert steps[-1] == (6, 6)
    assert done.scores["epochs"] == 2
    assert done.timing["seconds"] > 0


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(packed):
    def weights(seed):
        compute = OPTIONS.compute.model_copy(update={"seed": seed})
        model = train_baseline(packed, OPTIONS.model, OPTIONS.train, compute, CPU).saved.model
        return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
