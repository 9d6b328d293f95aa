"""What ranks compute in the tests: ``python -m tests.ranks.jobs FOLDER JOB...`` does so as one of them."""

import atexit
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml

from tests.pruning.speeds import take_speeds_from_shapes
from tests.training.conftest import ALL_AUGMENTATION, PREPROCESSING, random_split, recipe, tiny_model, train_tiny
from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.optimal import optimal_ablation
from vitprune.core.compute.distributed import gathered, join, world
from vitprune.core.compute.launch import started_rank
from vitprune.core.model import SavedModel
from vitprune.core.model.predict import predict
from vitprune.core.packed import PackedData
from vitprune.params import parse_params
from vitprune.recipes.finetune import Recovery
from vitprune.training.distillation import Distiller
from vitprune.training.options import DistillationOptions

CLASSES = ("a", "b", "c", "d")


def training(folder: Path) -> None:
    """A training with everything in it that is random, and a teacher; 34 images, so that the last batch has two."""
    model, teacher = tiny_model(dropout=0.1, drop_path=0.2), tiny_model(7).eval()
    options = DistillationOptions(weight=0.5, temperature=2.0, hard=False, feature_weight=0.1)
    distiller = Distiller(
        SavedModel(model=teacher, preprocessing=PREPROCESSING, class_names=CLASSES), options, PREPROCESSING
    )
    result = train_tiny(
        model,
        random_split(34, seed=1),
        random_split(21, seed=2),
        recipe(epochs=2, augment=ALL_AUGMENTATION, ema_decay=0.9, batch_size=8),
        distiller=distiller,
        state_path=folder / "state.pt",
    )
    if world().is_main:
        records = [(record.train_loss, record.val_loss, record.val_accuracy) for record in result.history]
        torch.save({"records": records, "weights": model.state_dict()}, folder / "training.pt")


def discovery(folder: Path) -> None:
    """Every method of discovery, on 13 images that ranks cannot share evenly."""
    model = tiny_model(3).eval()
    images = torch.randn(13, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    ablation = Ablation.mean(model, images)
    optimal = optimal_ablation(model, images, Graph.of(model), steps=9)
    noise = Ablation.noise(model, 1.0, seed=0)
    circuits = {
        "acdc": discover(model, images, tau=0.01, ablation=ablation, journal=folder / "journal"),
        "noise": discover(model, images, tau=0.01, ablation=noise, granularity="node-edge"),
        "batches": discover(model, images, tau=0.01, ablation=ablation, batch_size=3),
        "candidates": discover(model, images, tau=0.01, ablation=ablation, candidates=3),
        "hybrid": discover(model, images, "hybrid", tau=0.01, ablation=ablation),
        "eap": discover(model, images, "eap", num_edges=20, ablation=ablation),
        "eap-ig": discover(model, images, "eap-ig", num_edges=20, ablation=ablation),
        "edge-pruning": discover(model, images, "edge-pruning", num_edges=20, ablation=ablation),
        "both": discover(model, images, tau=0.01, ablation=ablation, direction="both"),
        "optimal": discover(model, images, tau=0.01, ablation=optimal),
        "activation": discover(model, images, "activation", num_edges=20, ablation=ablation),
    }
    if world().is_main:
        kept = {name: (circuit.kept, circuit.kl) for name, circuit in circuits.items()}
        damages = [(decision.action, decision.after) for decision in circuits["acdc"].trace]
        torch.save({"kept": kept, "damages": damages}, folder / "discovery.pt")


def prediction(folder: Path) -> None:
    """Logits of 7 images, of which each rank has some, and of 1, of which only one rank has any."""
    model = tiny_model().eval()
    logits = [predict(model, random_split(count, seed=0).images, PREPROCESSING, batch_size=2) for count in (7, 1)]
    rows = world().share_of(5)
    order = gathered(torch.arange(5)[rows], 5)
    torch.save({"logits": logits, "order": order}, folder / f"prediction{world().rank}.pt")


def compiled(folder: Path) -> None:
    """Which inputs dropout leaves out in the first step of a compiled model."""
    model, masks = tiny_model(dropout=0.5), []
    model.dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    # All but the compiling itself, which takes minutes.
    with torch.compiler.set_stance("force_eager"):
        train_tiny(model, random_split(6), random_split(4), recipe(epochs=1, warmup_epochs=0.0, compile=True))
    torch.save(masks[0], folder / f"compiled{world().rank}.pt")


def rounds(folder: Path) -> None:
    """Fine-tuning in two rounds with pruning between them, and once more as after an interruption."""
    # Not every rank may look at a clock, and no clock decides here.
    take_speeds_from_shapes(pytest.MonkeyPatch())
    content = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    content["prune"] |= {"target_speedup": 1.5, "group_size": 4, "num_images": 8, "num_fold_images": 8}
    content["finetune"] |= {"epochs": 2, "rounds": 2, "warmup_epochs": 0}
    content["train"] |= {"batch_size": 8, "optimizer": "adamw"}
    params = parse_params(content)
    splits = {name: random_split(count, seed=count) for name, count in (("train", 16), ("val", 9), ("test", 8))}
    recovery = Recovery(
        packed=PackedData(**splits, class_names=CLASSES, mean=(0.5,), std=(0.3,)),
        train=params.train,
        finetune=params.finetune,
        prune=params.prune,
        compute=params.compute,
        device=torch.device("cpu"),
        state=folder / "rounds.pt",
    )
    weights = []
    for _ in range(2):
        baseline, pruned = (
            SavedModel(model=tiny_model().eval(), preprocessing=PREPROCESSING, class_names=CLASSES) for _ in range(2)
        )
        saved, _, figures = recovery.recover(pruned, baseline)
        assert figures[0]["measured_speedup"] >= 1.5
        weights.append(torch.cat([tensor.flatten() for tensor in saved.model.state_dict().values()]))
    assert torch.equal(*weights)
    torch.save(weights[0], folder / f"rounds{world().rank}.pt")


JOBS = {
    "training": training,
    "discovery": discovery,
    "prediction": prediction,
    "compiled": compiled,
    "rounds": rounds,
}


def main(folder: Path, *jobs: str) -> None:
    """Do the jobs as the rank that the environment names, and note whether the rank has left its group at the end."""
    rank = started_rank()
    assert rank is not None
    torch.set_num_threads(1)
    # Called after everything that is registered later.
    atexit.register(lambda: (folder / f"left{rank.rank}").write_text(str(not dist.is_initialized())))
    join(rank, torch.device("cpu"))
    for job in jobs:
        JOBS[job](folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
