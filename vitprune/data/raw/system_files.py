"""Files and folders that operating systems, file servers and programs leave among the user's own.

Thumbnails and bins hold real images: taken for data, they become classes, or copies that leak between the splits.
"""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = frozenset(
    [
        # macOS, in archives and on file servers
        "__macosx",
        "icon\r",
        "icon\\r",  # as names are shown
        "network trash folder",
        "temporary items",
        # Windows
        "$recycle.bin",
        "system volume information",
        "found.000",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        # Linux and Android
        "lost+found",
        "lost.dir",
        # Synology
        "@eadir",
        "@tmp",
        "#recycle",
        "#snapshot",
        # QNAP
        "@recycle",
        "@recently-snapshot",
        "@transcode",
        # programs
        "__pycache__",
        "picasa.ini",
        "zbthumbnail.info",
    ]
)
_ENDINGS = ("@synoeastream", "@synoresource", ":zone.identifier", ":encryptable")


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or is one that a system makes for itself."""
    lower = name.lower()
    # Hidden files include macOS's ._1.jpg, which is named like an image but is not one.
    return name.startswith(".") or lower in _NAMES or lower.endswith(_ENDINGS)


def is_system_path(parts: Iterable[str]) -> bool:
    """Whether a path of these parts is a system's file, or lies in a folder of a system's."""
    return any(is_system_name(part) for part in parts)
