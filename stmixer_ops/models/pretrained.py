"""Weights of an earlier training as the first ones of another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..nn.wrappers import unwrap
from .fitting import fit_weights, log_notes
from .official import official_names, translate
from .resample import Grid
from .weights import read_weights, strip_prefix


def load_pretrained(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    grid: Grid | None = None,
) -> nn.Module:
    """Load what fits of a checkpoint into ``model``, for fine-tuning; messages say what did not.

    A readout of another class count is left out, and the model's keeps its initial values. Token
    matrices of another input size are resampled to the model's grid
    (:func:`~stmixer_ops.models.resample.resample_token_matrices`). Everything else has to fit.

    Args:
        model: a :class:`~stmixer_ops.STMixer`, a :class:`~stmixer_ops.Spikformer`, or any module;
            wrappers of ``torch.compile`` and DDP stay on.
        source: a file of ``stmixer train``, any ``.safetensors`` file, a ``.pth`` / ``.pt`` /
            ``.tar`` / ``.ckpt`` file of torch (read with ``weights_only=True``), or what such a
            file holds. Names may be this library's or, for its models, the official code's. What
            wrappers put before them is taken off (``_orig_mod.``, ``module.``, ``model.``, ...);
            an average over training (EMA) is preferred where the file has one.
        grid: rows and columns of tokens that the weights were trained on, by default a square.
    Returns:
        ``model``, unchanged if anything raises.
    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, or names or shapes do not fit; both sides are named.
        TypeError: ``model`` or ``source`` is of another kind.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    target = unwrap(model)
    state, origin, notes = pretrained_weights(target, source)
    notes += fit_weights(target, state, origin, grid=grid, need_surrogates=False)
    log_notes(notes)
    return model


def pretrained_weights(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]
) -> tuple[dict[str, Tensor], str, list[str]]:
    """The weights in ``source`` under ``model``'s names, a name of it, and notes."""
    weights, origin = read_weights(source)
    own, official = model.state_dict().keys(), official_names(model)

    def rename(key: str) -> str | None:
        # Surrogate modules may be in the file alone.
        if key in own or key.startswith("surrogates.") or official is None:
            return key
        return official(key)

    def known(key: str) -> bool:
        return key in own or (official is not None and rename(key) is not None)

    weights, notes = strip_prefix(weights, known, origin)
    return translate(weights, rename, origin), origin, notes
