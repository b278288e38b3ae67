"""Paths as users give them, and files on file systems that are not strict."""

from __future__ import annotations

import errno
import os
import stat

import pytest

import stmixer_ops as so
from stmixer_ops._files import write_atomically
from stmixer_ops.train import load_checkpoint, save_checkpoint

pytest.importorskip("safetensors")

CONFIG = {
    "model": {"name": "stmixer_1_16_2", "kwargs": {"img_size": 8}},
    "data": {"name": "digits", "classes": ["a"], "mean": [0.5], "std": [0.5], "img_size": 8},
}


def model() -> so.STMixer:
    return so.create_model("stmixer_1_16_2", img_size=8).eval()


def refuse_to_sync_folders(monkeypatch, number: int) -> list[int]:
    """From now on ``os.fsync`` of a folder fails; the modes of what was synced."""
    synced, sync = [], os.fsync

    def fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        synced.append(mode)
        if stat.S_ISDIR(mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EACCES"])
def test_folders_that_cannot_be_synced(tmp_path, monkeypatch, name):
    synced = refuse_to_sync_folders(monkeypatch, getattr(errno, name))
    so.Engine.compile(model()).save(tmp_path / "m.stmx")
    save_checkpoint(tmp_path / "m.safetensors", model(), CONFIG)
    assert [stat.S_ISDIR(mode) for mode in synced] == [False, True] * 2
    so.Engine.load(tmp_path / "m.stmx")
    load_checkpoint(tmp_path / "m.safetensors")


def test_other_failures_of_a_sync_are_told(tmp_path, monkeypatch):
    refuse_to_sync_folders(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "a", lambda p: p.write_text("a"))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    so.Engine.compile(model()).save("~/m.stmx")
    so.Engine.load("~/m.stmx")
    save_checkpoint("~/new/m.safetensors", model(), CONFIG)
    assert load_checkpoint("~/new/m.safetensors").path == tmp_path / "new" / "m.safetensors"


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/no/m\.stmx: expected the folder .*/no to exist"):
        so.Engine.compile(model()).save(tmp_path / "no" / "m.stmx")
    (tmp_path / "sealed").mkdir(mode=0o500)

    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with pytest.raises(PermissionError, match=r"Permission denied: '.*sealed/a'"):
        write_atomically(tmp_path / "sealed" / "a", fail)
