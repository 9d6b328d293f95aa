"""What ranks do in the tests: ``python -m tests.ranks.jobs JOB FOLDER`` does it as one of them, or alone."""

import sys
from pathlib import Path

import torch

from tests.training.conftest import ALL_AUGMENTATION, PREPROCESSING, random_split, recipe, tiny_model, train_tiny
from vitprune.circuit import Ablation, discover
from vitprune.commands.launch import ranks_around
from vitprune.distributed import gathered, join, world
from vitprune.model import SavedModel
from vitprune.model.predict import predict
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
        epochs=2,
        recipe=recipe(augment=ALL_AUGMENTATION, ema_decay=0.9, batch_size=8),
        distiller=distiller,
        state_path=folder / "state.pt",
    )
    if world().is_main:
        records = [(record.train_loss, record.val_loss, record.val_accuracy) for record in result.history]
        torch.save({"records": records, "weights": model.state_dict()}, folder / "found.pt")


def discovery(folder: Path) -> None:
    """Every method of discovery, on 13 images that two ranks cannot share evenly."""
    model = tiny_model(3).eval()
    images = torch.randn(13, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    ablation = Ablation.mean(model, images)
    noise = Ablation.noise(model, 1.0, seed=0)
    circuits = {
        "acdc": discover(model, images, tau=0.01, ablation=ablation, journal=folder / "journal"),
        "noise": discover(model, images, tau=0.01, ablation=noise, granularity="node-edge"),
        "batches": discover(model, images, tau=0.01, ablation=ablation, batch_size=3),
        "candidates": discover(model, images, tau=0.01, ablation=ablation, candidates=3),
        "hybrid": discover(model, images, "hybrid", tau=0.01, ablation=ablation),
        "eap": discover(model, images, "eap", num_edges=20, ablation=ablation),
        "eap-ig": discover(model, images, "eap-ig", num_edges=20, ablation=ablation),
        "activation": discover(model, images, "activation", num_edges=20, ablation=ablation),
    }
    if world().is_main:
        kept = {name: (circuit.kept, circuit.kl) for name, circuit in circuits.items()}
        damages = [(decision.action, decision.after) for decision in circuits["acdc"].trace]
        torch.save({"kept": kept, "damages": damages}, folder / "found.pt")


def prediction(folder: Path) -> None:
    """Logits of 7 images, of which each rank has some, and of 1, of which one rank has none."""
    model = tiny_model().eval()
    logits = [predict(model, random_split(count, seed=0).images, PREPROCESSING, batch_size=2) for count in (7, 1)]
    rows = world().share_of(5)
    order = gathered(torch.arange(5)[rows], 5)
    torch.save({"logits": logits, "order": order}, folder / f"found{world().rank}.pt")


if __name__ == "__main__":
    around = ranks_around()
    torch.set_num_threads(1)
    if around:
        join(around, torch.device("cpu"))
    {"training": training, "discovery": discovery, "prediction": prediction}[sys.argv[1]](Path(sys.argv[2]))
