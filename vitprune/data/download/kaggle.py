"""A data set from Kaggle, fetched by Kaggle's own client, which can resume an interrupted download.

The client signs in while it is imported, prints, and may exit; this module contains all of that. The client's
exceptions may carry signed addresses or tokens, so they are neither passed on nor quoted: a message only names their
type.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
import os
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vitprune.data.raw.archive import check_archive
from vitprune.data.raw.limits import UNLIMITED, ArchiveLimits, ArchiveTooLargeError
from vitprune.errors import ConfigError, DataError, DownloadError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
POLL_SECONDS = 0.5
KEY_FILES = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
_HANDLE = re.compile(r"(?P<owner>[\w-]+)/(?P<name>[\w-]+)(/(versions/)?(?P<version>\d+))?")


def fetch(
    folder: Path,
    handle: str,
    cache: Path,
    on_progress: Callable[[int, int], None],
    limits: ArchiveLimits = UNLIMITED,
) -> list[str]:
    """Download the data set ``handle`` (owner/name or owner/name/version) into ``folder``; returns the archive's name.

    An interrupted download waits in ``cache``. Raises ConfigError if the handle is malformed, and DownloadError
    without credentials or network, or if the archive differs from what Kaggle announced.
    """
    owner, name, version = _parse(handle)
    check_key_files()
    api = sign_in(handle)
    partial = cache / "kaggle" / owner / name / (version or "latest") / f"{name}.zip"
    download(api, handle, partial, on_progress, limits=limits)
    shutil.move(partial, folder / partial.name)
    return [partial.name]


def _parse(handle: str) -> tuple[str, str, str | None]:
    """Owner, name and version of a handle."""
    match = _HANDLE.fullmatch(handle)
    if match is None:
        raise ConfigError(f"data.kaggle_handle must be owner/name or owner/name/version, got {handle!r}")
    return match["owner"], match["name"], match["version"]


def check_key_files() -> None:
    """Raise DownloadError if other users may use a file with the user's key. Nothing of the file is read."""
    if os.name == "nt":
        return
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folders = [Path.home() / ".kaggle", config / "kaggle"]
    if own := os.environ.get("KAGGLE_CONFIG_DIR"):
        folders.append(Path(own))
    for file in (folder / name for folder in folders for name in KEY_FILES):
        if file.is_file() and file.stat().st_mode & 0o077:
            raise DownloadError(
                f"Kaggle: other users of this machine may use your key in {file}; run chmod 600 "
                f"{shlex.quote(str(file))}, and create a new key on kaggle.com if they may have read it"
            )


def sign_in(handle: str) -> Any:
    """Return the client, signed in with the user's credentials; DownloadError says how to get some."""

    def signed_in() -> Any:
        try:
            # Imported late: the import reads credentials, may ask the server about them, and may exit.
            import kaggle

            if not kaggle.api.config_values.get(kaggle.api.CONFIG_NAME_AUTH_METHOD):
                # The import hides its errors. Signing in again tells missing credentials from a missing network.
                kaggle.api.authenticate()
            return kaggle.api
        except SystemExit:
            return None

    with contextlib.redirect_stderr(io.StringIO()):
        api = _guarded(handle, signed_in)
    if api is None:
        raise DownloadError(
            f"Kaggle found no valid credentials of yours, and {handle} needs them. Either\n"
            "  - create a token under Settings > API on kaggle.com and set the environment variable KAGGLE_API_TOKEN,\n"
            "    or save it as ~/.kaggle/access_token (kaggle.json, in ~/.kaggle or KAGGLE_CONFIG_DIR, works too); or\n"
            f"  - download {handle} in the browser and set data.path to the archive."
        )
    return api


def download(
    api: Any,
    handle: str,
    archive: Path,
    on_progress: Callable[[int, int], None],
    *,
    limits: ArchiveLimits = UNLIMITED,
    max_retries: int = 5,
) -> None:
    """Download ``handle`` to ``archive``, resuming an earlier download, and check its size and content.

    Progress is in bytes. Raises DownloadError; an incomplete file is kept for the next try, a wrong one is deleted.
    """
    from kaggle.api.kaggle_api_extended import ApiDownloadDatasetRequest

    owner, name, version = _parse(handle)
    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug = owner, name
    request.dataset_version_number = int(version) if version else None
    archive.parent.mkdir(parents=True, exist_ok=True)

    def transfer() -> tuple[int, str]:
        with (
            api.build_kaggle_client() as client,
            client.datasets.dataset_api_client.download_dataset(request) as response,
        ):
            size = int(response.headers.get("Content-Length", 0))
            with _size_reported(archive, size, on_progress):
                api.download_file(
                    response, str(archive), client.http_client(), quiet=True, resume=True, max_retries=max_retries
                )
            return size, response.headers.get("x-goog-hash", "")

    size, checksums = _guarded(handle, transfer)
    try:
        _check(archive, size, checksums, limits)
    except ArchiveTooLargeError:
        raise
    except DataError as error:
        archive.unlink(missing_ok=True)
        raise DownloadError(f"Kaggle: {handle} did not arrive as announced ({error}); try again") from None


def _check(archive: Path, size: int, checksums: str, limits: ArchiveLimits) -> None:
    actual = archive.stat().st_size
    if size and actual != size:
        raise DataError(f"{actual} bytes instead of {size}")
    # Google's storage lists checksums in a header, such as crc32c=…, md5=….
    md5 = re.search(r"md5=([A-Za-z0-9+/=]+)", checksums)
    if md5 is not None:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
        if digest != base64.b64decode(md5[1]):
            raise DataError("its MD5 checksum differs")
    check_archive(archive, limits=limits)


def _guarded(handle: str, work: Callable[[], Result]) -> Result:
    """Call the client; any exception becomes a DownloadError that neither quotes nor carries it.

    The client's output is discarded: it prints help, warnings and, in verbose mode, headers with credentials.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return work()
    except Exception as error:
        explanation = _explain(handle, error)
        response = getattr(error, "response", None)
        if response is not None:
            response.close()
    # Raised outside the except clause, so that the client's exception is not its context.
    raise DownloadError(explanation)


def _explain(handle: str, error: Exception) -> str:
    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    by_hand = "or download it in the browser and set data.path to the archive"
    if status in (401, 403):
        return (
            f"Kaggle refused {handle} (HTTP {status}): check your token, and whether the data set's page asks you to "
            f"accept terms, {by_hand}"
        )
    if status == 404:
        return f"Kaggle has no data set {handle} (HTTP 404): check data.kaggle_handle"
    if status is not None:
        return f"Kaggle could not send {handle} (HTTP {status}): try again later, {by_hand}"
    return (
        f"Kaggle: {handle} could not be downloaded ({kind}): check the network and try again, which resumes the "
        f"download, {by_hand}"
    )


@contextmanager
def _size_reported(archive: Path, size: int, on_progress: Callable[[int, int], None]) -> Iterator[None]:
    """Report the growing size of a file: the client itself can only draw a progress bar."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            report()

    def report() -> None:
        if archive.exists():
            so_far = archive.stat().st_size
            on_progress(so_far, max(size, so_far))

    watcher = threading.Thread(target=poll, daemon=True)
    watcher.start()
    try:
        yield
        report()
    finally:
        done.set()
        watcher.join()
