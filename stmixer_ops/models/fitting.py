"""Weights into a model of another head or input size; what does not fit is named."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..nn.layers import STM
from .resample import Grid, resample_token_matrices, square_grid
from .weights import some

_log = logging.getLogger("stmixer_ops")
_HEAD = re.compile(r"(surrogates\.\d+\.)?head\.(weight|bias)")


def fit_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    origin: str,
    *,
    grid: Grid | None = None,
    keep_head: bool = False,
    need_surrogates: bool = True,
) -> list[str]:
    """Load ``state``, under this library's names, into ``model``; nothing happens if it raises.

    Args:
        grid: tokens (rows, columns) that the weights were trained on; a square by default.
        keep_head: leave the model's readouts as they are in any case.
        need_surrogates: whether it is an error that surrogate modules of the model are missing.
    Returns:
        notes on what was left out or resampled.
    Raises:
        ValueError: names or shapes that do not fit, both sides named.
    """
    own = model.state_dict()
    state, notes = dict(state), []
    kept = _leave_out_head(state, own, keep_head)
    if kept is not None:
        notes.append(f"{origin}: {kept}")
    surrogates = any(name.startswith("surrogates.") for name in own)
    found = [name for name in state if name.startswith("surrogates.")]
    if found and not surrogates:
        for name in found:
            del state[name]
        notes.append(
            f"{origin}: left out {len(found)} tensors of surrogate modules, which the model does "
            "not have (sml=True builds them)"
        )
    elif surrogates and not found and not need_surrogates:
        notes.append(f"{origin}: has no surrogate modules; the model's keep their initial values")
    missing = [
        name for name in own
        if name not in state
        and not (kept is not None and _HEAD.fullmatch(name))
        and not (name.startswith("surrogates.") and not found and not need_surrogates)
    ]  # fmt: skip
    notes += _resample(model, state, own, grid, origin)
    _compare(state, own, missing, f"{origin} does not fit this {type(model).__name__}")
    model.load_state_dict(state, strict=False)
    return notes


def log_notes(notes: list[str]) -> None:
    """What :func:`fit_weights` did other than asked, for who has no display of their own."""
    for note in notes:
        _log.warning("%s", note)


def _leave_out_head(
    state: dict[str, Tensor], own: Mapping[str, Tensor], keep_head: bool
) -> str | None:
    """Take a readout of another class count out of ``state``; a note if there was one."""
    weight, bias, mine = state.get("head.weight"), state.get("head.bias"), own.get("head.weight")
    if weight is None or bias is None or weight.dim() != 2 or len(bias) != len(weight):
        return None
    fits = mine is not None and len(mine) == len(weight)
    if mine is not None and not keep_head and (fits or mine.shape[1:] != weight.shape[1:]):
        return None  # fits, or does not for another reason
    for name in [name for name in state if _HEAD.fullmatch(name)]:
        del state[name]
    if mine is None:
        return f"left out the readout of {len(weight)} classes; the model has none"
    return (
        f"left out the readout of {len(weight)} classes; the model's, of {len(mine)}, keeps its "
        "initial values"
    )


def _resample(
    model: nn.Module,
    state: dict[str, Tensor],
    own: Mapping[str, Tensor],
    grid: Grid | None,
    origin: str,
) -> list[str]:
    """Bring token matrices in ``state`` to the model's grid; a note if there were any to bring."""
    changed: dict[tuple[Grid, Grid], list[str]] = {}
    for path, module in model.named_modules():
        name = f"{path}.weight".lstrip(".")
        value = state.get(name)
        if not isinstance(module, STM) or name not in own or value is None or value.dim() != 3:
            continue
        tokens, wanted = value.shape[-1], module.num_tokens
        mine = getattr(model, "grid_size", None) or square_grid(wanted)
        old = grid or (mine if tokens == wanted else square_grid(tokens))
        if old == mine:
            continue
        if old is None or mine is None or old[0] * old[1] != tokens:
            raise ValueError(
                f"{origin}: {name} is {list(value.shape)}, the model's is {list(own[name].shape)}: "
                f"to resample it, grid must give the rows and columns of its {tokens} tokens, "
                f"got {grid}"
            )
        state[name] = resample_token_matrices(value, old, mine)
        changed.setdefault((old, mine), []).append(name)
    return [
        f"{origin}: token matrices resampled from {old[0]}x{old[1]} to {new[0]}x{new[1]} tokens "
        f"({some(names, limit=1)})"
        for (old, new), names in changed.items()
    ]


def _compare(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], missing: list[str], verdict: str
) -> None:
    problems = []
    if missing:
        problems.append(f"missing {some(sorted(missing))}")
    if extra := sorted(state.keys() - own.keys()):
        problems.append(f"not in the model {some(extra)}")
    for name in sorted(state.keys() & own.keys()):
        if state[name].shape != own[name].shape:
            problems.append(
                f"{name} is {list(state[name].shape)}, the model's is {list(own[name].shape)}"
            )
        elif not state[name].isfinite().all():
            problems.append(f"{name} has non-finite values")
    if problems:
        raise ValueError(f"{verdict}: {some(problems, '; ')}")
