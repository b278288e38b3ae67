"""Checkpoints: one safetensors file with weights, optimiser state and the configuration inside.

Tensors are named ``model.<state-dict key>`` and ``optimizer.<parameter>.<state>``; the metadata
holds ``format`` and ``config``, a JSON object. Nothing in the file can execute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import stand_in, user_path, write_atomically
from .._numbers import plain_number
from .._optional import require
from ..models import create_model
from ..models.base import SpikingClassifier
from ..models.fitting import fit_weights
from ..models.pretrained import pretrained_weights
from ..models.weights import plain_name, some
from ..nn.wrappers import unwrap

FORMAT = "stmixer_ops.checkpoint/1"
_SECTIONS = {"model": ("name", "kwargs"), "data": ("name", "classes", "mean", "std", "img_size")}


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`load_checkpoint` found.

    ``config`` has the sections ``model`` (name and keywords of ``create_model``), ``data`` (name,
    classes, mean, std, img_size), ``neuron``, ``recipe``, ``history`` and more, see
    :func:`stmixer_ops.train.train`.
    """

    path: Path
    config: dict[str, Any]
    model_state: dict[str, Tensor]
    optimizer_state: dict[str, Tensor]

    def build_model(self, *, surrogates: bool = False, **overrides: Any) -> SpikingClassifier:
        """The model in eval mode with these weights.

        Args:
            surrogates: also build the surrogate modules of SML, if it was trained with them.
            overrides: keywords of ``create_model``, for instance another ``T``.
        """
        spec = self.config["model"]
        options = {**spec["kwargs"], **overrides}
        if not surrogates:
            options.pop("sml", None)
        model = create_model(spec["name"], **options)
        load_weights(model, self.model_state, self.path)
        return model.eval()

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Give ``optimizer`` the state it was saved with."""
        found: dict[str, dict[str, Tensor]] = {}
        for path, value in self.optimizer_state.items():
            name, _, key = path.rpartition(".")
            found.setdefault(name, {})[key] = value
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if name not in found:
                raise ValueError(f"{self.path}: has no optimiser state of {name}")
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device)
                for key, value in found[name].items()
            }


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    config: Mapping[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Write ``model`` (and ``optimizer``) with ``config`` to ``path``, atomically.

    Of a compiled, data-parallel or averaged model what is inside is written.
    """
    model = unwrap(model)
    safetensors = require("safetensors.torch", "files", "saving a checkpoint")
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {"format": FORMAT, "config": json.dumps(config, default=plain_number)}
    path = user_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.save(tensors, metadata)
    write_atomically(path, lambda p: p.write_bytes(content))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a file of :func:`save_checkpoint`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, foreign, of another format version, or with non-finite weights.
    """
    safetensors = require("safetensors", "files", "reading a checkpoint")
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a checkpoint, found no file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(
                    f"{path}: expected a checkpoint of format {FORMAT!r}, got a safetensors file "
                    f"of format {metadata.get('format')!r}"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        reason = stand_in(path) or error
        raise ValueError(f"{path}: not a whole safetensors file ({reason})") from error
    config = _check_config(path, metadata.get("config", ""))
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        name = plain_name(name)
        if part not in parts:
            raise ValueError(f"{path}: expected tensors model.* and optimizer.*, got {key!r}")
        parts[part][name] = value
    for name, value in parts["model"].items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{path}: expected finite weights, but {name} has NaN or infinity")
    return Checkpoint(path, config, parts["model"], parts["optimizer"])


def load_first_weights(model: nn.Module, source: str | Path, classes: Sequence[str]) -> list[str]:
    """Weights of an earlier training into ``model``, which tells the ``classes`` apart.

    Takes what :func:`stmixer_ops.models.load_pretrained` takes: token matrices of another input
    size are resampled, a readout of another number of classes is left out. Of this package's own
    checkpoints it is also left out where the classes have other names.

    Returns:
        notes on what was resampled or left out.
    Raises:
        FileNotFoundError, ValueError: see :func:`stmixer_ops.models.load_pretrained`.
    """
    path = user_path(source)
    if path.suffix == ".safetensors" and (not path.exists() or _is_own(path)):
        saved = load_checkpoint(path)
        theirs, mine = list(saved.config["data"]["classes"]), list(classes)
        others = theirs != mine
        notes = [f"{path}: its classes are {some(theirs)}, here {some(mine)}"] if others else []
        spec = saved.config["model"]
        with torch.device("meta"):  # a grid need not be a square
            grid = create_model(spec["name"], **spec["kwargs"]).grid_size
        return notes + fit_weights(
            model, saved.model_state, str(path), grid=grid, keep_head=others, need_surrogates=False
        )
    state, origin, notes = pretrained_weights(model, path)
    return [*notes, *fit_weights(model, state, origin, need_surrogates=False)]


def _is_own(path: Path) -> bool:
    safetensors = require("safetensors", "files", "reading a checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format", "").startswith("stmixer_ops.checkpoint/")
    except safetensors.SafetensorError:
        return True  # load_checkpoint says what is wrong


def _check_config(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the configuration inside is not JSON ({error})") from error
    for section, keys in _SECTIONS.items():
        content = config.get(section) if isinstance(config, dict) else None
        if not isinstance(content, dict) or any(key not in content for key in keys):
            raise ValueError(
                f"{path}: expected the configuration to have {section} with {', '.join(keys)}"
            )
    return config


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load ``state`` into ``model``; whatever does not fit is an error that names it.

    Surrogate modules may be in the one and not in the other: they are for training alone.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state and not _is_surrogate(key)]
    unexpected = [key for key in state if key not in own and not _is_surrogate(key)]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    if shapes:
        key = shapes[0]
        raise ValueError(
            f"{source}: does not fit the model: {key} has shape {list(state[key].shape)}, "
            f"expected {list(own[key].shape)}"
        )
    if missing or unexpected:
        what = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is unknown to it"
        raise ValueError(
            f"{source}: does not fit the model: {what} ({len(missing)} missing, "
            f"{len(unexpected)} unknown)"
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _is_surrogate(key: str) -> bool:
    return key.startswith("surrogates.")
