"""Weights out of the files that training scripts write: read safely, wrappers taken off."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import re
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import stand_in, user_path

_array: Any = np.zeros(0).__reduce__()[0]
_scalar: Any = np.float64(0).__reduce__()[0]  # type: ignore[call-arg, index]
# Beside the weights scripts store options, metrics and curves: plain data, nothing that acts. A
# tuple is a class and the name it has in files: paths of the other system, NumPy 1 and 2.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
    (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSUMm"},
    *((f, f"{home}.{f.__name__}") for f in (_array, _scalar)
      for home in ("numpy.core.multiarray", "numpy._core.multiarray")),
]  # fmt: skip

# Where scripts keep a state dict, copies averaged over training first.
_STATE_KEYS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model",
    "state_dict", "model_state_dict", "model", "module", "net", "network", "weights",
)  # fmt: skip
# What torch.compile, FSDP and activation checkpointing put into names, anywhere.
_INFIX = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_EMA = re.compile(r"(^|[._])(ema|averaged?)([._]|$)|_ema\b")
_SUFFIXES = {".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def read_weights(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state dict in ``source``, a file or what it holds, and a name of it for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, or holds no state dict.
        TypeError: ``source`` is of another kind.
    """
    if isinstance(source, Mapping):
        origin, content = "the state dict", source
    elif isinstance(source, (str, os.PathLike)):
        path = user_path(source)
        origin, content = str(path), _read(path)
    else:
        raise TypeError(f"source must be a path or a state dict, got {type(source).__name__}")
    state = _find(content)
    if not state:
        raise ValueError(f"{origin} holds no state dict")
    return {_INFIX.sub("", key): value for key, value in state.items()}, origin


def plain_name(key: str) -> str:
    """A name in a state dict without what ``torch.compile``, FSDP and DDP add to it."""
    return _INFIX.sub("", key).removeprefix("module.")


def strip_prefix(
    weights: Mapping[str, Tensor], known: Callable[[str], bool], origin: str
) -> tuple[dict[str, Tensor], list[str]]:
    """``weights`` without what stands before the model's own names (``module.``, ``model.``, ...).

    Where several copies of the model are in a file, one of moving averages is preferred.

    Args:
        known: whether a name belongs to the model.
    Returns:
        the tensors of the model, and a note on those that belong to something else.
    """
    counts: Counter[str] = Counter()
    for key in weights:
        counts.update(prefix for prefix in _prefixes(key) if known(key[len(prefix) :]))
    if not counts:
        return dict(weights), []
    most = max(counts.values())
    prefix = min(
        (p for p, n in counts.items() if n == most),
        key=lambda p: (_EMA.search(p) is None, len(p), p),
    )
    inside = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    outside = [k for k in weights if not k.startswith(prefix) and not k.endswith("n_averaged")]
    if not outside:
        return inside, []
    return inside, [f"{origin}: took {prefix}*; left out {some(outside)}"]


def some(names: list[str], separator: str = ", ", limit: int = 5) -> str:
    """The first few of ``names``, and how many more there are."""
    more = f"{separator}and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def _prefixes(key: str) -> Iterator[str]:
    yield ""
    yield from (key[: match.end()] for match in re.finditer(r"\.", key))


def _find(content: Any) -> dict[str, Tensor]:
    """The innermost state dict, empty if there is none."""
    if not isinstance(content, Mapping):
        return {}
    for key in _STATE_KEYS:
        state = _find(content.get(key))
        if any(tensor.dim() for tensor in state.values()):  # numbers alone are no weights
            return state
    return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _read(path: Path) -> Any:
    if path.is_dir():
        files = sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)
        raise ValueError(
            f"{path} is a folder; give the file in it ({some(files) or 'it has none'})"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with torch.serialization.safe_globals(_HARMLESS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except PermissionError:
            raise
        # An OSError is how torch takes an archive that is cut off.
        except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError,
                AttributeError, TypeError, IndexError, OSError) as error:  # fmt: skip
            raise ValueError(
                f"{path} is not a readable torch checkpoint: {_reason(path, error)}"
            ) from error


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            "reading .safetensors needs safetensors: pip install 'stmixer-ops[files]'"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        reason = stand_in(path) or error
        raise ValueError(f"{path} is not a readable safetensors file: {reason}") from error


def _reason(path: Path, error: Exception) -> str:
    """One line: torch's own has many, in colours, and the reason comes late."""
    if (found := stand_in(path)) is not None:
        return found
    if isinstance(error, OSError):
        return f"it is cut off ({error})"
    text = _COLOURS.sub("", str(error))
    if match := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", text):
        try:
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except (ValueError, RuntimeError, pickle.UnpicklingError):  # not torch's zip format
            names = [match[1]]
        return (
            f"beside weights it holds {some(names or [match[1]])}, and unpickling such things may "
            "run code; save the model's state_dict() alone, or if you trust the file pass "
            'torch.load(path, weights_only=False)["state_dict"] (or where the weights are in it)'
        )
    text = text.rpartition("WeightsUnpickler error:")[2] or text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "it is empty or cut off"
