"""``stmixer compile``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .._files import user_path, write_atomically
from ..data import (
    Data,
    PrepareImages,
    finds_data,
    load_stored,
    spread_images,
    stored_preparation,
    with_steps,
)
from ..engine import Engine
from ..engine.calibrate import MAX_SAMPLES
from ..graph.quantize import int16_layers
from ..models.base import SpikingClassifier
from ..train.checkpoint import load_checkpoint
from ..train.progress import open_display
from ._arguments import add_data, positive
from ._labels import write_labels
from ._quantized import as_dict, as_text, compare_precisions

# Options of int8 alone.
_INT8 = ("calibrate", "int16_layers", "report", "data", "root")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", help="file of stmixer train")
    parser.add_argument("-o", "--out", help="engine file (default: the checkpoint's name, .stmx)")
    parser.add_argument("--T", type=positive, help="other time steps than in training")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    group = parser.add_argument_group("with --precision int8")
    group.add_argument(
        "--calibrate",
        type=positive,
        metavar="N",
        help=f"training images that tell the range of the input and which layers need 16 bits "
        f"(default {MAX_SAMPLES}, also the most)",
    )
    group.add_argument(
        "--int16-layers", metavar="NAME,...", help="layers that get 16-bit weights in any case"
    )
    add_data(group)
    group.add_argument(
        "--report", metavar="FILE", help="JSON file (default: the engine's name, .report.json)"
    )


def run(args: argparse.Namespace) -> int:
    _check(args)
    saved = load_checkpoint(args.checkpoint)
    out = user_path(args.out) if args.out else saved.path.with_suffix(".stmx")
    report = user_path(args.report) if args.report else out.with_suffix(".report.json")
    for path in (out, report):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: expected the folder {path.parent} to exist")
    model = saved.build_model(**({"T": args.T} if args.T else {}))
    stored = with_steps(saved.config["data"], args.T)
    if args.precision == "fp32":
        _save(_compiled(model, stored), out, stored)
        return 0
    data = None
    if finds_data(stored, args.data, args.root):
        data = load_stored(stored, saved.path, args.data, args.root, open_display())
    _compile_int8(model, data, stored, out, report, args)
    return 0


def _check(args: argparse.Namespace) -> None:
    given = [name for name in _INT8 if getattr(args, name) is not None]
    if args.precision == "fp32" and given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for --precision int8")
    if args.calibrate is not None and args.calibrate > MAX_SAMPLES:
        raise ValueError(f"--calibrate must be at most {MAX_SAMPLES}, got {args.calibrate}")


def _compiled(
    model: SpikingClassifier, stored: dict[str, Any], *args: Any, **options: Any
) -> Engine:
    """With the mean and deviation of the training images; frames of events have none."""
    prepare = stored_preparation(stored)
    if isinstance(prepare, PrepareImages):
        options |= {"mean": prepare.mean, "std": prepare.std}
    return Engine.compile(model, *args, **options)


def _save(engine: Engine, out: Path, stored: dict[str, Any]) -> None:
    engine.save(out)
    write_labels(out, stored)
    print(f"{out}: {engine}, {out.stat().st_size / 1e6:.2f} MB")


def _compile_int8(
    model: SpikingClassifier,
    data: Data | None,
    stored: dict[str, Any],
    out: Path,
    report: Path,
    args: argparse.Namespace,
) -> None:
    samples, count = None, 0
    if data is not None:
        images = spread_images(data.train, args.calibrate or MAX_SAMPLES)
        samples, count = stored_preparation(stored)(images), len(images)
    names = args.int16_layers.split(",") if args.int16_layers else None
    engine = _compiled(model, stored, "int8", samples, int16_layers=names)
    _save(engine, out, stored)
    wide = int16_layers(engine.graph)
    print(f"layers of 16 bits beside the head: {', '.join(wide) or 'none'}")
    if data is None:
        comparison = None
        print("no data set (--root names its folder): not calibrated, not compared with fp32")
    else:
        print(f"calibrated on {count} training images of {data.name}\n")
        comparison = compare_precisions(Engine.compile(model), engine, data, stored)
        print(as_text(comparison))
    text = json.dumps(as_dict(count, wide, out.stat().st_size, comparison), indent=1) + "\n"
    write_atomically(report, lambda path: path.write_text(text))
    print(f"\nreport: {report}")
