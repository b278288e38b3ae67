"""The keywords that timm's tools hand to every model."""

from __future__ import annotations

from typing import Any

from ..nn.lif import check_lif_options

# Values that ask for nothing, and what to do for those that do.
_HOSTED = "there are no hosted weights; load_pretrained(model, path) reads a file"
_CONFIG = "keywords of the model replace its defaults"
_DROPOUT = "these models have no dropout"
_SCRIPT = "TorchScript cannot express these ops; torch.export can"
_TIMM: dict[str, tuple[tuple[Any, ...], str]] = {
    "pretrained": ((False, None), _HOSTED),
    "checkpoint_path": (("", None), "load_pretrained(model, path) reads a file"),
    "pretrained_cfg": (({}, None), _CONFIG),
    "pretrained_cfg_overlay": (({}, None), _CONFIG),
    "cache_dir": (("", None), _HOSTED),
    "drop_rate": ((0, None), _DROPOUT),
    "proj_drop_rate": ((0, None), _DROPOUT),
    "attn_drop_rate": ((0, None), _DROPOUT),
    "drop_path_rate": ((0, None), "these models have no stochastic depth"),
    "global_pool": (("avg", "", None), "the readout is the mean over tokens and steps"),
    "features_only": (
        (False, None),
        "forward_intermediates(x, indices) gives the stream after each block",
    ),
    "scriptable": ((False, None), _SCRIPT),
    "exportable": ((False, True, None), _SCRIPT),
    "no_jit": ((False, True, None), _SCRIPT),
}


def lif_options(owner: str, options: dict[str, Any]) -> dict[str, Any]:
    """``options`` without timm's harmless keywords; what is left are keywords of LIF.

    Raises:
        ValueError: a keyword of timm that asks for what these models do not have, with what to do.
        TypeError: an unknown keyword.
    """
    for name, (harmless, instead) in _TIMM.items():
        if name in options and options[name] not in harmless:
            raise ValueError(
                f"{owner}: {name} must be {harmless[0]!r} ({instead}), got {options[name]!r}"
            )
    options = {name: value for name, value in options.items() if name not in _TIMM}
    check_lif_options(owner, options)
    return options


def input_channels(owner: str, in_channels: int | None, in_chans: int | None) -> int | None:
    """The one of two names of an argument that was given."""
    if in_channels is not None and in_chans is not None and in_channels != in_chans:
        raise ValueError(
            f"{owner}: in_channels and in_chans are the same, got {in_channels!r} and {in_chans!r}"
        )
    return in_channels if in_chans is None else in_chans
