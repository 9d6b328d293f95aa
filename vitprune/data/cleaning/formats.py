"""The kinds of image files that can be read here: those of this Pillow, and those of the plugins that are installed.

Pillow reads more formats, and starts other programs for some of them; data sets consist of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from PIL import features

_ALWAYS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_IN_PILLOW: Mapping[str, tuple[str, ...]] = {"WEBP": (".webp",), "AVIF": (".avif",)}
"""Formats that a Pillow may have been built without."""
_PLUGINS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "HEIF": ("pillow_heif", (".heic", ".heif", ".hif")),
    "JXL": ("pillow_jxl", (".jxl",)),
}
"""Formats of plugins, of the packages pillow-heif and pillow-jxl-plugin: the module and the extensions."""


def _installed() -> dict[str, tuple[str, ...]]:
    found = dict(_ALWAYS)
    found |= {name: endings for name, endings in _IN_PILLOW.items() if features.check(name.lower())}
    return found | {name: endings for name, (module, endings) in _PLUGINS.items() if find_spec(module)}


_READABLE = _installed()
FORMATS = tuple(_READABLE)
"""Pillow's names of the formats that can be read here."""
EXTENSIONS = frozenset(ending for endings in _READABLE.values() for ending in endings)
"""Endings of the names of files that can be read here, in lower case."""


@cache
def load_plugins() -> None:
    """Let Pillow know the formats of the plugins that are installed."""
    for name, (module, _) in _PLUGINS.items():
        if name in FORMATS:
            plugin = import_module(module)
            if name == "HEIF":
                plugin.register_heif_opener()
