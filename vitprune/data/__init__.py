"""Data for all stages: ``download`` fetches it, ``cleaning`` packs it, and the later stages load it with these."""

from vitprune.data.packed import PackedData, Split, load_packed

__all__ = ["PackedData", "Split", "load_packed"]
