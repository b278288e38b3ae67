"""Weights of the official STMixer and Spikformer code, under this library's names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.wrappers import unwrap
from .fitting import fit_weights, log_notes
from .spikformer import Spikformer
from .stmixer import STMixer
from .weights import read_weights, some, strip_prefix


def load_official(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]
) -> nn.Module:
    """Load an official STMixer or Spikformer checkpoint into ``model``.

    Args:
        model: a :class:`STMixer` or :class:`Spikformer` of the checkpoint's sizes. T and the reset
            rule are not in the file; the model's stand. Another class count or input size is
            treated as by :func:`load_pretrained`.
        source: as for :func:`load_pretrained`, but under the official code's names. Surrogate
            modules in the file are left out, with a message, if the model has none.
    Returns:
        ``model``, unchanged if anything raises.
    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, or is not a checkpoint of this model.
        TypeError: ``model`` or ``source`` is of another kind.
    """
    target = unwrap(model)
    rename = official_names(target)
    if rename is None:
        raise TypeError(f"model must be a STMixer or a Spikformer, got {type(model).__name__}")
    weights, origin = read_weights(source)
    weights, notes = strip_prefix(weights, lambda key: rename(key) is not None, origin)
    notes += fit_weights(target, translate(weights, rename, origin), origin)
    log_notes(notes)
    return model


def official_names(model: nn.Module) -> Callable[[str], str | None] | None:
    """From the official code's names to this library's, None for a model of another kind."""
    if isinstance(model, STMixer):
        return stmixer_name
    return spikformer_name if isinstance(model, Spikformer) else None


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
            # Official 1x1 convolutions over tokens are [O, C, 1]; our own names stand for them.
            pointwise = name != key and value.dim() == 3 and value.shape[-1] == 1
            state[name] = value.squeeze(-1) if pointwise else value
    if unknown:
        raise ValueError(f"{origin}: unknown keys, so not a checkpoint of this model: "
                         f"{some(unknown)}")  # fmt: skip
    for name, parts in heads.items():
        matrices = [parts[i] for i in sorted(parts)]
        if sorted(parts) != list(range(len(parts))) or len({m.shape for m in matrices}) > 1:
            raise ValueError(f"{origin}: the heads of {name} are incomplete: {sorted(parts)}")
        state[name] = torch.stack(matrices)
    return state


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
