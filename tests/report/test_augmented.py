import numpy as np
import torch
from PIL import Image

from vitprune.report.augmented import draw_augmented

NAMES = ("shirt", "a class with a very long name", "bag")


def test_the_plot_is_the_same_each_time_and_shows_the_images(tmp_path):
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)[torch.arange(40) % 3]
    targets[0] = torch.tensor([0.7, 0.3, 0.0])
    for name in ("a.png", "b.png"):
        draw_augmented(tmp_path / name, images, targets, NAMES)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    draw_augmented(tmp_path / "dark.png", images * 0, targets, NAMES)
    bright, dark = (np.asarray(Image.open(tmp_path / name).convert("L")).mean() for name in ("a.png", "dark.png"))
    assert bright > dark + 20


def test_few_images_in_colour_of_one_class(tmp_path):
    draw_augmented(tmp_path / "a.png", torch.rand(3, 3, 8, 8), torch.ones(3, 1), ("only",))
    assert (tmp_path / "a.png").is_file()
