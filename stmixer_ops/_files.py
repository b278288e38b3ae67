"""Paths as users write them, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
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

    Whatever kills the process meanwhile, ``path`` holds its old content or the new one.

    Raises:
        FileNotFoundError: the folder of ``path`` is missing.
        OSError: naming ``path``.
    """
    path = user_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected the folder {path.parent} to exist")
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    if os.name == "posix":
        _sync_folder(path.parent)


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
