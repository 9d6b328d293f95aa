"""From a source to packed images: ``download`` fetches it, ``cleaning`` packs it, ``raw`` lies between the two."""

from typing import Literal

Resize = Literal["crop", "stretch"]
"""How an image becomes square: its middle square, or all of it."""
