"""Weights of the official STMixer and Spikformer code, under this library's names."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .spikformer import Spikformer
from .stmixer import STMixer

_log = logging.getLogger("stmixer_ops")

# Training scripts store their options, and sometimes a metric as a NumPy scalar, beside the
# weights. Both are plain data.
_scalar: Any = np.float64(0).__reduce__()[0]  # type: ignore[call-arg, index]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float64)),
    # NumPy 1 and 2 keep it in different places; a file from either must open.
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]
_STATE_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")


def load_official(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]
) -> nn.Module:
    """Load an official STMixer or Spikformer checkpoint into ``model``.

    Args:
        model: a :class:`STMixer` or :class:`Spikformer` of the checkpoint's sizes. T and the reset
            rule are not in the file; the model's stand.
        source: a ``.pth`` / ``.pt`` / ``.tar`` file of torch (read with ``weights_only=True``), a
            ``.safetensors`` file, or a state dict. An EMA copy is preferred, ``module.`` is
            stripped. Surrogate modules in the file are left out, with a message, if the model has
            none.
    Returns:
        ``model``, unchanged if anything raises.
    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, or is not a checkpoint of this model.
        TypeError: ``model`` or ``source`` is of another kind.
    """
    if isinstance(model, STMixer):
        rename = stmixer_name
    elif isinstance(model, Spikformer):
        rename = spikformer_name
    else:
        raise TypeError(f"model must be a STMixer or a Spikformer, got {type(model).__name__}")
    if isinstance(source, Mapping):
        origin, content = "the state dict", source
    elif isinstance(source, (str, os.PathLike)):
        origin, content = str(source), _read(Path(source))
    else:
        raise TypeError(f"source must be a path or a state dict, got {type(source).__name__}")
    state = translate(_weights(content, origin), rename, origin)
    wanted = model.state_dict()
    if isinstance(model, STMixer) and not len(model.surrogates):
        dropped = [name for name in state if name.startswith("surrogates.")]
        for name in dropped:
            del state[name]
        if dropped:
            _log.warning(
                "%s: left out %d tensors of surrogate modules, which the model does not have "
                "(sml=True builds them)", origin, len(dropped),
            )  # fmt: skip
    _compare(state, wanted, origin, type(model).__name__)
    model.load_state_dict(state)
    return model


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
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
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable torch checkpoint: {reason}") from error


def _weights(content: Any, origin: str) -> dict[str, Tensor]:
    """The flat state dict inside a checkpoint, without ``module.``."""
    while isinstance(content, Mapping):
        inner = [key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
    tensors = (
        {key.removeprefix("module."): value for key, value in content.items()
         if isinstance(key, str) and isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )  # fmt: skip
    if not tensors:
        raise ValueError(f"{origin} holds no state dict")
    return tensors


def translate(
    weights: Mapping[str, Tensor], rename: Callable[[str], str | None], origin: str
) -> dict[str, Tensor]:
    """Official keys and shapes to this library's."""
    state: dict[str, Tensor] = {}
    heads: dict[str, dict[int, Tensor]] = {}
    unknown = []
    for key, value in weights.items():
        name = rename(key)
        if name is None:
            unknown.append(key)
        elif match := re.fullmatch(r"(.*\.stm\.weight)\.(\d+)", name):
            heads.setdefault(match[1], {})[int(match[2])] = value
        else:
            # Official 1x1 convolutions over tokens are [O, C, 1].
            pointwise = value.dim() == 3 and value.shape[-1] == 1
            state[name] = value.squeeze(-1) if pointwise else value
    if unknown:
        raise ValueError(f"{origin}: unknown keys, so not a checkpoint of this model: "
                         f"{_some(unknown)}")  # fmt: skip
    for name, parts in heads.items():
        matrices = [parts[i] for i in sorted(parts)]
        if sorted(parts) != list(range(len(parts))) or len({m.shape for m in matrices}) > 1:
            raise ValueError(f"{origin}: the heads of {name} are incomplete: {sorted(parts)}")
        state[name] = torch.stack(matrices)
    return state


def _compare(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], origin: str, kind: str
) -> None:
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {_some(missing)}")
    if extra := sorted(state.keys() - wanted.keys()):
        problems.append(f"not in the model {_some(extra)}")
    for name in sorted(state.keys() & wanted.keys()):
        if state[name].shape != wanted[name].shape:
            problems.append(
                f"{name} is {list(state[name].shape)}, the model's is {list(wanted[name].shape)}"
            )
        elif not state[name].isfinite().all():
            problems.append(f"{name} has non-finite values")
    if problems:
        raise ValueError(f"{origin} does not fit this {kind}: {_some(problems, '; ')}")


def _some(names: list[str], separator: str = ", ", limit: int = 5) -> str:
    more = f"{separator}and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


_Rules = Mapping[str, Callable[[re.Match[str]], str] | str]


def _rename(key: str, rules: _Rules) -> str | None:
    for pattern, replacement in rules.items():
        if match := re.fullmatch(pattern, key):
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return None


_TENSOR = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def _third(prefix: str) -> Callable[[re.Match[str]], str]:
    # The official patch splitting is one nn.Sequential of conv, BN, LIF, conv, BN, LIF, ...
    def name(match: re.Match[str]) -> str:
        stage, part = divmod(int(match[1]), 3)
        return f"{prefix}.{stage}.{('conv', 'bn', 'lif')[part]}.{match[2]}"

    return name


_STMIXER: _Rules = {
    rf"patch_embd\.proj_conv\.(\d+)\.{_TENSOR}": _third("patch_embed.main"),
    rf"patch_embd\.short_proj1\.0\.{_TENSOR}": r"patch_embed.protect.conv.\1",
    rf"patch_embd\.short_proj1\.1\.{_TENSOR}": r"patch_embed.protect.bn.\1",
    rf"block\.(\d+)\.token_mix\.fc(\d)\.1\.{_TENSOR}": r"blocks.\1.token_mixer.fc\2.\3",
    rf"block\.(\d+)\.token_mix\.fc(\d)\.2\.{_TENSOR}": r"blocks.\1.token_mixer.bn\2.\3",
    r"block\.(\d+)\.token_mix\.attn\.linear_mix\.(\d+)\.weight": (
        r"blocks.\1.token_mixer.stm.weight.\2"
    ),
    rf"block\.(\d+)\.channel_mix\.fc(\d)\.1\.{_TENSOR}": r"blocks.\1.channel_mlp.fc\2.\3",
    rf"block\.(\d+)\.channel_mix\.fc(\d)\.2\.{_TENSOR}": r"blocks.\1.channel_mlp.bn\2.\3",
    rf"head\.{_TENSOR}": r"head.\1",
}
_SURROGATE: _Rules = {
    rf"proj_conv\.0\.{_TENSOR}": r"proj.\1",
    rf"proj_conv\.1\.{_TENSOR}": r"bn.\1",
    rf"encoder\.(\d+)\.spatial_mix\.fc([12])\.1\.{_TENSOR}": r"blocks.\1.fc\2.\3",
    rf"encoder\.(\d+)\.spatial_mix\.fc([12])\.2\.{_TENSOR}": r"blocks.\1.bn\2.\3",
    r"encoder\.(\d+)\.spatial_mix\.attn\.linear_mix\.(\d+)\.weight": r"blocks.\1.stm.weight.\2",
    rf"encoder\.(\d+)\.channel_mix\.fc1\.1\.{_TENSOR}": r"blocks.\1.fc3.\2",
    rf"encoder\.(\d+)\.channel_mix\.fc1\.2\.{_TENSOR}": r"blocks.\1.bn3.\2",
    rf"encoder\.(\d+)\.channel_mix\.fc2\.0\.{_TENSOR}": r"blocks.\1.fc4.\2",
    rf"encoder\.(\d+)\.channel_mix\.fc2\.1\.{_TENSOR}": r"blocks.\1.bn4.\2",
    rf"head\.{_TENSOR}": r"head.\1",
}
_SPIKFORMER: _Rules = {
    rf"patch_embed\.rpe_(conv|bn)\.{_TENSOR}": r"patch_embed.position.\1.\2",
    rf"patch_embed\.proj_(conv|bn)(\d?)\.{_TENSOR}": (
        lambda m: f"patch_embed.main.{m[2] or 0}.{m[1]}.{m[3]}"
    ),
    rf"block\.(\d+)\.attn\.([qkv]|proj)_bn\.{_TENSOR}": r"blocks.\1.attn.\2_bn.\3",
    rf"block\.(\d+)\.attn\.([qkv]|proj)_(?:linear|conv)\.{_TENSOR}": r"blocks.\1.attn.\2.\3",
    rf"block\.(\d+)\.mlp\.fc(\d)_bn\.{_TENSOR}": r"blocks.\1.mlp.bn\2.\3",
    rf"block\.(\d+)\.mlp\.fc(\d)_(?:linear|conv)\.{_TENSOR}": r"blocks.\1.mlp.fc\2.\3",
    rf"block\.(\d+)\.norm(\d)\.{_TENSOR}": r"blocks.\1.norm\2.\3",
    rf"head\.{_TENSOR}": r"head.\1",
}


def stmixer_name(key: str) -> str | None:
    if match := re.fullmatch(r"sml(\d+)\.(.*)", key):
        name = _rename(match[2], _SURROGATE)
        return name and f"surrogates.{int(match[1]) - 1}.{name}"
    return _rename(key, _STMIXER)


def spikformer_name(key: str) -> str | None:
    return _rename(key, _SPIKFORMER)
