"""A data set from Kaggle, through its own client, which can resume a download that was cut.

The client signs in while it is imported, prints, and may exit; all of that stays in here. Its exceptions are not passed
on and not quoted, because they may carry signed addresses or tokens: a message says what kind of error it was.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vitprune.data.archive import check_archive
from vitprune.data.sources.cache import cache_folder
from vitprune.errors import ConfigError, DataError, DownloadError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
SECONDS_BETWEEN_LOOKS = 0.5
_HANDLE = re.compile(r"(?P<owner>[\w-]+)/(?P<name>[\w-]+)(/(versions/)?(?P<version>\d+))?")


def fetch(folder: Path, handle: str, on_progress: Callable[[int, int], None]) -> list[str]:
    """Download the data set ``handle`` (owner/name or owner/name/version) into ``folder``; returns the archive's name.

    What was downloaded before a cut waits in the cache folder. Raises ConfigError for an impossible handle, and
    DownloadError without credentials or network, or if what came is not what was announced.
    """
    match = _HANDLE.fullmatch(handle)
    if match is None:
        raise ConfigError(f"data.kaggle_handle must be owner/name or owner/name/version, got {handle!r}")
    api = sign_in(handle)
    version = match["version"] or "latest"
    partial = cache_folder() / "kaggle" / match["owner"] / match["name"] / version / f"{match['name']}.zip"
    download(api, handle, partial, on_progress)
    shutil.move(partial, folder / partial.name)
    return [partial.name]


def sign_in(handle: str) -> Any:
    """The client, signed in with the user's credentials; DownloadError says how to get some."""

    def signed_in() -> Any:
        try:
            # Imported late: this reads credentials, may ask the server about them, and may exit.
            import kaggle

            if not kaggle.api.config_values.get(kaggle.api.CONFIG_NAME_AUTH_METHOD):
                # The import swallows its errors. Asking again tells no credentials from no network.
                kaggle.api.authenticate()
            return kaggle.api
        except SystemExit:
            return None

    with contextlib.redirect_stderr(io.StringIO()):
        api = _guarded(handle, signed_in)
    if api is None:
        raise DownloadError(
            f"Kaggle knows no valid credentials of yours, and {handle} needs them. Either\n"
            "  - create a token under Settings > API on kaggle.com and set the environment variable KAGGLE_API_TOKEN,\n"
            "    or save it as ~/.kaggle/access_token (kaggle.json, in ~/.kaggle or KAGGLE_CONFIG_DIR, works too); or\n"
            f"  - download {handle} in the browser and set data.path to the archive."
        )
    return api


def download(
    api: Any, handle: str, archive: Path, on_progress: Callable[[int, int], None], *, max_retries: int = 5
) -> None:
    """Download ``handle`` to ``archive``, going on where an earlier download was cut, and check size and content.

    Progress is in bytes. Raises DownloadError; what came is kept for the next try unless it proved wrong.
    """
    from kaggle.api.kaggle_api_extended import ApiDownloadDatasetRequest

    owner, name, *version = handle.replace("/versions/", "/").split("/")
    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug = owner, name
    request.dataset_version_number = int(version[0]) if version else None
    archive.parent.mkdir(parents=True, exist_ok=True)

    def arrived() -> tuple[int, str]:
        with (
            api.build_kaggle_client() as client,
            client.datasets.dataset_api_client.download_dataset(request) as response,
        ):
            size = int(response.headers.get("Content-Length", 0))
            with _watched(archive, size, on_progress):
                api.download_file(
                    response, str(archive), client.http_client(), quiet=True, resume=True, max_retries=max_retries
                )
            return size, response.headers.get("x-goog-hash", "")

    size, checksums = _guarded(handle, arrived)
    try:
        _check(archive, size, checksums)
    except DataError as error:
        archive.unlink(missing_ok=True)
        raise DownloadError(f"Kaggle: {handle} did not arrive as announced ({error}); try again") from None


def _check(archive: Path, size: int, checksums: str) -> None:
    found = archive.stat().st_size
    if size and found != size:
        raise DataError(f"{found} bytes instead of {size}")
    # Where the archive lies in Google's storage, the header lists checksums, such as crc32c=…, md5=….
    md5 = re.search(r"md5=([A-Za-z0-9+/=]+)", checksums)
    if md5 is not None:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
        if digest != base64.b64decode(md5[1]):
            raise DataError("its MD5 checksum is another one")
    check_archive(archive)


def _guarded(handle: str, work: Callable[[], Result]) -> Result:
    """Let the client work; any failure of its becomes a DownloadError that neither quotes nor carries it.

    The client prints help, warnings and, when told to be verbose, headers with credentials: none of it gets out.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return work()
    except Exception as error:
        explanation = _explain(handle, error)
        response = getattr(error, "response", None)
        if response is not None:
            response.close()
    # Raised out here, so that the client's exception is not its context.
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
        f"Kaggle: {handle} could not be downloaded ({kind}): check the network and try again, which goes on where it "
        f"stopped, {by_hand}"
    )


@contextmanager
def _watched(archive: Path, size: int, on_progress: Callable[[int, int], None]) -> Iterator[None]:
    """Report the growing size of a file; the client has no way to tell how far it is but to draw a bar itself."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            report()

    def report() -> None:
        if archive.exists():
            so_far = archive.stat().st_size
            on_progress(so_far, max(size, so_far))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
        report()
    finally:
        done.set()
        watcher.join()
