"""Small ViTs of other libraries, for the tests of conversions."""

import timm
import torch
import torchvision
from torch import nn


def shaken(model: nn.Module, std: float = 0.2) -> nn.Module:
    """Change all weights of a model: many start as zero or one, which would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def small_timm(kind=timm.models.VisionTransformer, **changes) -> nn.Module:
    """timm's ViT for RGB images of 16×16 pixels in patches of 8×8, with random weights."""
    shape = {
        "img_size": 16,
        "patch_size": 8,
        "num_classes": 5,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return shaken(kind(**shape | changes))


def small_torchvision(**changes) -> nn.Module:
    """torchvision's ViT of the same shape."""
    shape = {
        "image_size": 16,
        "patch_size": 8,
        "num_classes": 5,
        "hidden_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "mlp_dim": 32,
    }
    return shaken(torchvision.models.VisionTransformer(**shape | changes))


def noise(model: nn.Module, count: int = 3) -> torch.Tensor:
    """Images for one of our ViTs."""
    config = model.config
    shape = (count, config.in_channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_logits(converted: nn.Module, original: nn.Module) -> None:
    images = noise(converted)
    torch.testing.assert_close(converted(images), original(images), rtol=1e-4, atol=1e-4)
