"""CIFAR-10 and -100 in the python layout that torchvision downloads."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .images import MemoryImages

# Classes a pickled uint8 array refers to, in old and new NumPy: nothing here can run code.
_ARRAY_GLOBALS = {
    ("multiarray", "_reconstruct"),
    ("numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


@dataclass(frozen=True)
class CifarLayout:
    """Names of the files, and of what is in them."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels_key: str
    meta: str
    names_key: str

    def find(self, root: Path) -> Path | None:
        """``root`` or the folder in it that holds the files, whatever ``root`` is called."""
        for folder in (root, root / self.folder):
            if (folder / self.meta).is_file() and (folder / self.test[0]).is_file():
                return folder
        return None


CIFAR10 = CifarLayout(
    "cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",),
    "labels", "batches.meta", "label_names",
)  # fmt: skip
CIFAR100 = CifarLayout(
    "cifar-100-python", ("train",), ("test",), "fine_labels", "meta", "fine_label_names"
)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoding {encoding!r} is not allowed")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers, strings, numbers and NumPy arrays; refuses everything else by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _encode
        last = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if (last, name) in _ARRAY_GLOBALS:
            # NumPy 2 renamed numpy.core; the files were written long before.
            if hasattr(np, "_core"):
                module = module.replace("numpy.core", "numpy._core")
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path}: not a readable CIFAR file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary, got {_describe(content)}")
    return {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}


def read_batch(path: Path, label_key: str) -> tuple[np.ndarray, list[int]]:
    """Pixels uint8 ``[N, 3072]`` and labels of one batch file. Nothing in the file is executed."""
    batch = _read(path)
    pixels, labels = batch.get("data"), batch.get(label_key)
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.ndim == 2
        and pixels.shape[1] == 3072
    ):
        raise ValueError(f"{path}: expected 'data' to be uint8 [N, 3072], got {_describe(pixels)}")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise ValueError(
            f"{path}: expected {label_key!r} to be a list of {len(pixels)} labels, "
            f"got {_describe(labels)}"
        )
    return pixels, labels


def read_class_names(path: Path, key: str) -> tuple[str, ...]:
    """The class names in ``batches.meta`` (key ``label_names``) or ``meta``."""
    names = _read(path).get(key)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: expected {key!r} to be a list of names, got {_describe(names)}")
    return tuple(n.decode("latin1") if isinstance(n, bytes) else str(n) for n in names)


def load_cifar(
    folder: Path, layout: CifarLayout
) -> tuple[MemoryImages, MemoryImages, tuple[str, ...]]:
    """Train set, test set and class names from the files of ``layout`` in ``folder``."""
    classes = read_class_names(folder / layout.meta, layout.names_key)
    train, test = (
        _stack(folder, names, layout.labels_key, classes) for names in (layout.train, layout.test)
    )
    return train, test, classes


def _stack(folder: Path, names: Sequence[str], key: str, classes: tuple[str, ...]) -> MemoryImages:
    pixels, labels = zip(*(read_batch(folder / name, key) for name in names), strict=True)
    targets = np.concatenate([np.asarray(part, dtype=np.int64) for part in labels])
    if targets.size == 0 or targets.min() < 0 or targets.max() >= len(classes):
        raise ValueError(
            f"{folder}: expected labels from 0 to {len(classes) - 1} in {', '.join(names)}"
        )
    images = torch.from_numpy(np.concatenate(pixels).reshape(-1, 3, 32, 32))
    return MemoryImages(images, torch.from_numpy(targets))


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else type(value).__name__
