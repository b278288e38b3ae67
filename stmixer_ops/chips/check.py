"""Which rule of which chip a network breaks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._extension import extension
from .._files import stand_in, user_path
from ..graph import Graph
from ..graph.stmx import check, decode
from .from_graph import from_graph
from .limits import Chip, chips
from .network import Network
from .report import BLOCKS, SEVERITIES, Finding, Report
from .rules import any_chip
from .speck import speck
from .stepped import stepped


def check_async(
    model: Any, chip: str | None = None, *, input_shape: Sequence[int] | None = None
) -> Report:
    """Check a network against the rules of a chip, or of any chip without a clock.

    Args:
        model: a module; a :class:`~stmixer_ops.Graph`, or an engine that has one; the path of a
            `.stmx` file or of a checkpoint; or a name for :func:`~stmixer_ops.create_model` (random
            weights). STMixer and Spikformer are exported, chains of layers (``nn.Sequential``) are
            read as they are; of other modules the parts are read one by one, and a finding says so.
        chip: ``"speck2f"`` (also for Speck 2e), the only one without time steps; ``"loihi1"``,
            ``"loihi2"``, ``"truenorth"``, ``"spinnaker2"``, ``"xylo"`` (the member of the family
            that comes nearest) or ``"akida2"``, whose cores run asynchronously between the
            barriers of a step; None for rules that need no figures of a chip.
        input_shape: ``(C, H, W)`` of a module that does not say it itself. Without it the
            neurons are not counted.
    Returns:
        findings with the figure that is needed and the one allowed; ``print`` shows a table.
    Raises:
        ValueError: an unknown chip, or a model that is not whole.
        TypeError: a model of another kind.
        FileNotFoundError: no such file, and no such name.
    """
    members = [None] if chip is None else chips(chip)
    network = _network(model, input_shape)
    reports = [_report(network, member) for member in members]
    return min(reports, key=_distance)


def _distance(report: Report) -> tuple[int, float]:
    """Rules that are broken, and by how much altogether."""
    blocking = report.of(BLOCKS)
    over = [
        f.need / f.allowed
        for f in blocking
        if isinstance(f.need, (int, float)) and isinstance(f.allowed, (int, float)) and f.allowed
    ]
    return len(blocking), sum(over)


def _report(network: Network, chip: Chip | None) -> Report:
    findings = list(any_chip(network, chip))
    cores: dict[str, int] = {}
    if chip is not None and chip.clock_free:
        more, cores = speck(network, chip)
        findings += more
    elif chip is not None:
        findings += stepped(network, chip)
    return Report(
        None if chip is None else chip.name,
        "any chip" if chip is None else chip.title,
        chip is None or chip.clock_free,
        _sorted(findings),
        network.layers(),
        cores,
    )


def _sorted(findings: list[Finding]) -> list[Finding]:
    unique = dict.fromkeys(findings)  # a layer that drives several populations, once
    return sorted(unique, key=lambda f: SEVERITIES.index(f.severity))


def _network(model: Any, input_shape: Sequence[int] | None) -> Network:
    graph = getattr(model, "graph", model)  # of an engine
    if isinstance(graph, Graph):
        model = graph
        check(model)
        return from_graph(model)
    if isinstance(model, (str, os.PathLike)):
        return _from_file(os.fspath(model), input_shape)
    from torch import nn

    from .modules import from_module

    if not isinstance(model, nn.Module):
        raise TypeError(
            "model must be a module, a Graph, a path or a name of a model, "
            f"got {type(model).__name__}"
        )
    if input_shape is not None and len(input_shape) != 3:
        raise ValueError(f"input_shape must be (C, H, W), got {tuple(input_shape)}")
    return from_module(model, None if input_shape is None else tuple(input_shape))  # type: ignore


def _from_file(name: str, input_shape: Sequence[int] | None) -> Network:
    path = user_path(name)
    if path.suffix == ".stmx":
        return from_graph(_read(path))
    from ..models import create_model

    if path.suffix == ".safetensors" or path.is_file():
        from ..train.checkpoint import load_checkpoint

        return _network(load_checkpoint(path).build_model(), input_shape)
    return _network(create_model(name).eval(), input_shape)


def _read(path: Path) -> Graph:
    content = path.read_bytes()
    try:
        extension().check_stmx(content)
    except ValueError as error:
        reason = stand_in(content) or error
        raise ValueError(f"{path} is not a usable engine file: {reason}") from None
    return decode(content)
