"""What all tests share: the long ones start first, so that two processes end at about the same time."""

import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
