"""Pretrained ViTs of timm and torchvision, converted and fitted to other images and classes."""

from vitprune.pretrained.from_timm import from_timm
from vitprune.pretrained.from_torchvision import from_torchvision
from vitprune.pretrained.loading import load_pretrained

__all__ = ["from_timm", "from_torchvision", "load_pretrained"]
