"""A shape small enough for every test of the model."""

SHAPE = {
    "image_size": 8,
    "patch_size": 4,
    "in_channels": 3,
    "num_classes": 5,
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 4,
    "d_mlp": 24,
}
