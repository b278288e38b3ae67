"""Paths as users give them, and files on file systems that are not strict."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys

import pytest
import torch

import stmixer_ops as so
from stmixer_ops._files import work_folder, write_atomically
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
    torch.save(model().state_dict(), tmp_path / "m.pth")
    so.load_pretrained(model(), "~/m.pth")
    with pytest.raises(FileNotFoundError, match="~nobody-of-this-name/m.pth"):
        so.load_pretrained(model(), "~nobody-of-this-name/m.pth")  # as a shell leaves it


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/no/m\.stmx: expected the folder .*/no to exist"):
        so.Engine.compile(model()).save(tmp_path / "no" / "m.stmx")
    (tmp_path / "sealed").mkdir(mode=0o500)

    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with pytest.raises(PermissionError, match=r"Permission denied: '.*sealed/a'"):
        write_atomically(tmp_path / "sealed" / "a", fail)


def test_a_link_stays_a_link(tmp_path):
    """A run whose files lie on other storage: what a link points to is written, new or not."""
    (tmp_path / "storage").mkdir()
    for link, target in (("a", "storage/old"), ("b", "storage/new"), ("c", "b")):
        (tmp_path / link).symlink_to(target)
    (tmp_path / "storage" / "old").write_text("old")
    for name in "abc":
        write_atomically(tmp_path / name, lambda path, name=name: path.write_text(name))
        assert (tmp_path / name).is_symlink()
    assert {p.name: p.read_text() for p in (tmp_path / "storage").iterdir()} == {
        "old": "a", "new": "c",
    }  # fmt: skip
    (tmp_path / "astray").symlink_to("missing/file")
    with pytest.raises(FileNotFoundError, match=r"astray: expected the folder .*missing to exist"):
        write_atomically(tmp_path / "astray", lambda path: path.write_text("x"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_what_is_no_file_is_written_and_not_replaced(tmp_path):
    """As /dev/null and /dev/stdout, which root would lose."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, lambda path: path.write_text("through"))
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_of_work_is_one_process(tmp_path):
    pytest.importorskip("fcntl")
    folder = tmp_path / "new" / "run"
    enter = f"""
import sys
from pathlib import Path
from stmixer_ops._files import work_folder
with work_folder(Path({str(folder)!r})):
    print("in", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", enter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(RuntimeError, match="run: another process"), work_folder(folder):
            pass
        other.kill()
    with work_folder(folder):
        assert list(folder.iterdir()) == []


def test_a_folder_of_work_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for path in ("file", "file/run"):
        with pytest.raises(OSError, match="file"), work_folder(tmp_path / path):
            pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    ],
)
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("m.stmx", so.Engine.load),
        ("m.safetensors", load_checkpoint),
        ("m.safetensors", lambda path: so.load_official(model(), path)),
        ("m.pth", lambda path: so.load_official(model(), path)),
    ],
)
def test_what_a_download_left_in_a_files_place_is_named(tmp_path, name, load, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\b.*{reason}"):
        load(tmp_path / name)
