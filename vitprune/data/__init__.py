"""From a source of images to packed arrays: fetch it, audit it, split it, and load what came of it."""

from vitprune.data.packed import PackedData, Split, load_packed

__all__ = ["PackedData", "Split", "load_packed"]
