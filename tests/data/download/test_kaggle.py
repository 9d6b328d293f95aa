"""The real Kaggle client without credentials, without network, and with a server on this machine."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import fetch_raw, image_bytes, write_zip
from vitprune.data.download.kaggle import check_key_files, download, sign_in
from vitprune.errors import ConfigError, DownloadError
from vitprune.storage import read_json

HANDLE = "somebody/images"
SECRECY = "one sentence says what to do, and no output and no file holds the key"
WHOLE = "the archive arrives whole and checked, or not at all"
SECRET = "KGAT_0123456789abcdef-do-not-show"
RUN = (
    "import os, sys; from pathlib import Path; from vitprune.commands.download import download; "
    "from vitprune.commands.terminal import report_errors, set_up_logging\n"
    "if 'TEST_SERVER' in os.environ:\n"
    "    from kagglesdk import kaggle_env\n"
    "    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = os.environ['TEST_SERVER']\n"
    "set_up_logging()\n"
    "with report_errors(): download(Path(sys.argv[1]), Path(sys.argv[2]))"
)


def run_download(tmp_path: Path, params: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The download command in a process of its own, with a home of its own and no network."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE", "XDG"))}
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    own = {"HOME": str(home), "KAGGLE_CONFIG_DIR": str(home / "kaggle"), "VITPRUNE_CACHE": str(tmp_path / "cache")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(params), str(tmp_path / "raw")],
        env=kept | proxy | own | {"no_proxy": "", "NO_PROXY": ""} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.fault("no credentials for Kaggle", "a few lines say how to get some")
def test_without_credentials_a_few_lines_say_how_to_get_some(tmp_path: Path, params_file) -> None:
    done = run_download(tmp_path, params_file(source="kaggle", path=None, kaggle_handle=HANDLE))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: Kaggle found no valid credentials of yours")
    for word in ("KAGGLE_API_TOKEN", "access_token", "kaggle.json", "KAGGLE_CONFIG_DIR", "data.path", HANDLE):
        assert word in done.stderr
    assert len(done.stderr.splitlines()) <= 5
    assert not (tmp_path / "raw").exists()


@pytest.mark.slow
@pytest.mark.fault("no network while a key is set", SECRECY)
def test_without_network_the_token_stays_secret(tmp_path: Path, params_file) -> None:
    path = params_file(source="kaggle", path=None, kaggle_handle=HANDLE)
    # With VERBOSE, the client prints the headers that it sends.
    done = run_download(tmp_path, path, KAGGLE_API_TOKEN=SECRET, VERBOSE="1")
    assert done.returncode == 1
    assert f"error: Kaggle: {HANDLE} could not be downloaded (ProxyError): check the network" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    for written in tmp_path.rglob("*"):
        assert not written.is_file() or SECRET.encode() not in written.read_bytes()


def test_a_malformed_handle_is_refused(tmp_path: Path) -> None:
    for handle in ("images", "a/b/c", "../x", "a/b/versions/", "a b/c", "https://x/a/b"):
        with pytest.raises(ConfigError, match=r"data\.kaggle_handle must be owner/name.*got"):
            fetch_raw(tmp_path / "raw", source="kaggle", path=None, kaggle_handle=handle)


class Server(ThreadingHTTPServer):
    """Kaggle in miniature: the API redirects to the archive, which can be had in ranges and may be cut."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag = '"first"'
        self.md5: str | None = base64.b64encode(hashlib.md5(content).digest()).decode()
        self.cut_after: int | None = None
        self.keys: set[str] = set()
        self.status = 200
        self.ranges: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.keys.add(self.headers.get("Authorization", ""))
        if self.server.status != 200:
            self.send_response(self.server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(302)
        self.send_header("Location", f"{self.server.address}/storage/archive.zip?signature={SECRET}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = 0
        if asked and self.headers.get("If-Range") == self.server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", self.server.etag)
        if self.server.md5 is not None:
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={self.server.md5}")
        self.end_headers()
        cut, self.server.cut_after = self.server.cut_after, None
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def archive_content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    files = {f"cats/{number}.png": image_bytes(number, size=(90, 90)) for number in range(120)}
    return write_zip(tmp_path_factory.mktemp("served") / "served.zip", files).read_bytes()


@pytest.fixture
def server(archive_content: bytes) -> Iterator[Server]:
    served = Server(archive_content)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def api(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real client; only the address it calls is ours."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "VERBOSE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # The client is made when it is first imported, which ends in this error without credentials.
    with pytest.raises(DownloadError):
        sign_in(HANDLE)
    from kaggle.api.kaggle_api_extended import KaggleApi

    class LocalApi(KaggleApi):
        def build_kaggle_client(self) -> Any:
            client = super().build_kaggle_client()
            client.http_client()._endpoint = server.address
            return client

    return LocalApi()


def fetch(api: Any, archive: Path, **options: Any) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    download(api, HANDLE, archive, lambda *step: steps.append(step), **options)
    return steps


def test_an_archive_arrives_whole_and_progress_ends_at_its_size(server: Server, api: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cache/images.zip"
    steps = fetch(api, archive)
    size = len(server.content)
    assert archive.read_bytes() == server.content
    assert steps[-1] == (size, size)
    assert [file.name for file in archive.parent.iterdir()] == ["images.zip"]


def test_the_archive_moves_from_the_cache_to_the_raw_folder(
    server: Server, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITPRUNE_CACHE", str(tmp_path / "cache"))
    # Only signing in needs Kaggle itself.
    monkeypatch.setattr("vitprune.data.download.kaggle.sign_in", lambda handle: api)
    fetch_raw(tmp_path / "raw", source="kaggle", path=None, kaggle_handle=HANDLE)
    assert (tmp_path / "raw/images.zip").read_bytes() == server.content
    assert read_json(tmp_path / "raw/source.json")["kaggle_handle"] == HANDLE
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert SECRET not in (tmp_path / "raw/source.json").read_text()


@pytest.mark.fault("a download that is cut short", "the next try goes on where it ended")
def test_an_interrupted_download_is_resumed(server: Server, api: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cache/images.zip"
    # The client writes whole MiB: the bytes between the last of them and the cut are lost.
    kept = 2 << 20
    assert len(server.content) > kept + 10_000
    server.cut_after = kept + 5000
    with pytest.raises(DownloadError, match=r"could not be downloaded .*resumes the download") as raised:
        fetch(api, archive, max_retries=0)
    assert SECRET not in str(raised.value)
    assert raised.value.__context__ is None
    so_far = archive.stat().st_size
    assert 0 < so_far < len(server.content)
    fetch(api, archive, max_retries=0)
    assert archive.read_bytes() == server.content
    assert server.ranges[-1] == f"bytes={so_far}-"


@pytest.mark.fault("a data set that changes between two tries of its download", WHOLE)
def test_a_partial_file_of_an_older_version_is_not_continued(server: Server, api: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cache/images.zip"
    server.cut_after = (2 << 20) + 5000
    with pytest.raises(DownloadError):
        fetch(api, archive, max_retries=0)
    server.etag = '"second"'
    fetch(api, archive, max_retries=0)
    assert archive.read_bytes() == server.content
    assert server.ranges[-1] is None


@pytest.mark.fault("a download whose checksum differs", WHOLE)
def test_content_that_differs_from_what_was_announced_is_deleted(server: Server, api: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cache/images.zip"
    server.md5 = base64.b64encode(bytes(16)).decode()
    with pytest.raises(DownloadError, match=r"did not arrive as announced \(its MD5 checksum differs\); try again"):
        fetch(api, archive)
    assert not archive.exists()


@pytest.mark.fault("a web page in place of the archive", WHOLE)
def test_a_file_that_is_not_an_archive_is_deleted(server: Server, api: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cache/images.zip"
    server.content = b"<html>sorry</html>"
    server.md5 = base64.b64encode(hashlib.md5(server.content).digest()).decode()
    with pytest.raises(DownloadError, match="not a zip or tar archive"):
        fetch(api, archive)
    assert not archive.exists()


@pytest.mark.fault("Kaggle refuses, does not know the data set, or is broken", "one sentence says what to check")
def test_a_refusal_says_what_to_check(server: Server, api: Any, tmp_path: Path) -> None:
    messages = {
        401: r"refused somebody/images \(HTTP 401\): check your token",
        403: r"refused somebody/images \(HTTP 403\)",
        404: r"no data set somebody/images \(HTTP 404\): check data\.kaggle_handle",
        500: r"could not send somebody/images \(HTTP 500\)",
    }
    for status, message in messages.items():
        server.status = status
        with pytest.raises(DownloadError, match=message):
            fetch(api, tmp_path / "cache/images.zip")


@pytest.mark.fault("a download of the right size with wrong bytes, and no checksum announced", WHOLE)
def test_wrong_bytes_of_the_right_size_are_deleted(server: Server, api: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cache/images.zip"
    whole, server.md5 = server.content, None
    middle = len(whole) // 2
    server.content = whole[:middle] + bytes(100) + whole[middle + 100 :]
    with pytest.raises(DownloadError, match=r"did not arrive as announced .*try again"):
        fetch(api, archive)
    assert not archive.exists()
    server.content = whole
    fetch(api, archive)
    assert archive.read_bytes() == whole


@pytest.mark.fault("wrong bytes in the part of a download that waits to be resumed", WHOLE)
def test_a_damaged_part_is_not_kept(server: Server, api: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cache/images.zip"
    server.cut_after, server.md5 = (2 << 20) + 5000, None
    with pytest.raises(DownloadError):
        fetch(api, archive, max_retries=0)
    with archive.open("r+b") as file:
        file.seek(1 << 20)
        file.write(bytes(100))
    with pytest.raises(DownloadError, match=r"did not arrive as announced .*try again"):
        fetch(api, archive)
    assert not archive.exists()
    fetch(api, archive)
    assert archive.read_bytes() == server.content


def write_key(folder: Path, mode: int, name: str = "kaggle.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(json.dumps({"username": "somebody", "key": SECRET}))
    file.chmod(mode)
    return file


@pytest.mark.slow
@pytest.mark.fault("a Kaggle key that other users may read", "it is refused before any network access, with the chmod")
def test_a_key_that_others_may_read_is_refused(
    server: Server, tmp_path: Path, params_file, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_key(tmp_path / "home/kag gle", 0o644)
    params = params_file(source="kaggle", path=None, kaggle_handle=HANDLE)
    done = run_download(tmp_path, params, TEST_SERVER=server.address, KAGGLE_CONFIG_DIR=str(key.parent), http_proxy="")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: Kaggle: other users of this machine may use your key in {key}; run chmod 600 " in done.stderr
    assert SECRET not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert server.keys == set()
    command = re.search(r"chmod 600 '.*'", done.stderr)
    assert command is not None
    subprocess.run(command[0], shell=True, check=True)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(key.parent))
    check_key_files()


@pytest.mark.fault("a Kaggle key that other users may use, in any of its places", "it is refused with the chmod")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o755])
@pytest.mark.parametrize("place", [".kaggle/kaggle.json", ".config/kaggle/kaggle.json", ".kaggle/access_token"])
def test_keys_are_looked_for_in_all_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    key = write_key((tmp_path / place).parent, mode, Path(place).name)
    with pytest.raises(DownloadError, match=rf"run chmod 600 {re.escape(str(key))}"):
        fetch_raw(tmp_path / "raw", source="kaggle", path=None, kaggle_handle=HANDLE)
    key.chmod(0o600)
    check_key_files()


@pytest.mark.slow
@pytest.mark.fault("a verbose client that prints what it sends, while Kaggle answers or refuses", SECRECY)
@pytest.mark.parametrize("status", [200, 403])
def test_the_key_stays_secret_whatever_the_answer(server: Server, tmp_path: Path, params_file, status: int) -> None:
    key = write_key(tmp_path / "home/kaggle", 0o600)
    server.status = status
    params = params_file(source="kaggle", path=None, kaggle_handle=HANDLE)
    done = run_download(tmp_path, params, TEST_SERVER=server.address, http_proxy="", VERBOSE="1")
    assert done.returncode == (0 if status == 200 else 1), done.stderr
    encoded = base64.b64encode(f"somebody:{SECRET}".encode()).decode()
    assert any(encoded in sent or SECRET in sent for sent in server.keys)
    for secret in (SECRET, encoded):
        assert secret not in done.stdout + done.stderr
        for written in tmp_path.rglob("*"):
            assert not written.is_file() or written == key or secret.encode() not in written.read_bytes()
