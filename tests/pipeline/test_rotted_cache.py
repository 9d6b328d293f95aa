"""A bit flips on the disk that holds DVC's cache, whose own records do not show it."""

import hashlib
import os
import shutil

import pytest


@pytest.mark.slow
@pytest.mark.fault("a file rots in DVC's cache", "the stage that reads it stops before it computes anything")
def test_a_file_that_rotted_in_the_cache_is_noticed_before_it_is_used(workspace):
    workspace.run("dvc", "repro", "clean")
    images = workspace.folder / "data" / "clean" / "train_images.npy"
    md5 = hashlib.md5(images.read_bytes(), usedforsecurity=False).hexdigest()
    cached = workspace.folder / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    before = cached.stat()
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.chmod(0o644)
    cached.write_bytes(content)
    os.utime(cached, ns=(before.st_atime_ns, before.st_mtime_ns))
    cached.chmod(before.st_mode)
    shutil.rmtree(images.parent)
    workspace.run("dvc", "checkout", "clean")
    output = workspace.run("dvc", "repro", "train", fails=True)
    assert "data/clean/train_images.npy: is not what vitprune wrote" in output
    assert not (workspace.folder / "models" / "baseline").exists()
