"""Paths as users write them, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What file systems answer that cannot sync a folder (CIFS, 9p, some FUSE).
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM,
                   errno.EBADF, errno.ENOSYS}  # fmt: skip


def user_path(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``~`` and ``~name`` replaced by the home folder, as a shell does.

    Every path that a user gives to this package passes through here.
    """
    return Path(os.path.expanduser(path))


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, sync it to disk, give it its name.

    Whatever kills the process meanwhile, ``path`` holds its old content or the new one. A link
    stays one: the file that it points to is replaced. Devices and pipes are written directly.

    Raises:
        FileNotFoundError: the folder of ``path`` is missing.
        OSError: naming ``path``.
    """
    path = user_path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        write(path)
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected the folder {target.parent} to exist")
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    if os.name == "posix":
        _sync_folder(target.parent)


def stand_in(file: Path | bytes) -> str | None:
    """What is in ``file``, or its content, in the place of weights, where that is plain to see."""
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            file = opened.read(64)
    start = file[:64].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself with: git lfs pull"
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page; the download brought no file"
    return None


@contextmanager
def work_folder(folder: Path) -> Iterator[None]:
    """Make ``folder`` if it is missing and keep it for this process alone; what was made and
    stayed empty is removed.

    The lock ends with the process, however that ends. Systems and file systems without such locks
    go without.

    Raises:
        RuntimeError: another process keeps it.
        OSError: nothing can be written there.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{folder}: another process is at work there") from None
        except OSError:
            pass
        yield
    finally:
        with suppress(OSError):  # forked loaders share the descriptor
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Bring a new name in ``folder`` to disk, where the file system can.

    The file itself is synced before; without this a crash of the whole machine can only bring the
    old file back.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable without being readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
