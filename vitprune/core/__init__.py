"""What every stage from training on stands on: packed images, the ViT, devices, ranks and the clock."""
