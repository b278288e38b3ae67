"""``stmixer info``."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor

from .._files import user_path
from ..data import finds_data, first_images, load_stored, stored_preparation, with_steps
from ..measure.cost import measure_cost
from ..measure.energy import Cost
from ..measure.rates import fit_rates
from ..measure.table import quantity
from ..models import create_model
from ..models.base import SpikingClassifier
from ..train.checkpoint import Checkpoint, load_checkpoint
from ..train.progress import open_display
from ._arguments import add_data, add_threads, positive, set_threads


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.epilog = (
        "Energy by the field's convention: 4.6 pJ per MAC of layers that read real numbers, "
        "0.9 pJ per synaptic operation (SOP); memory traffic is not in it."
    )
    parser.add_argument("model", help="checkpoint, or a name for create_model (random weights)")
    add_data(parser)
    parser.add_argument("--T", type=positive, help="time steps")
    parser.add_argument(
        "--images", type=positive, default=256, help="test images to measure on (default 256)"
    )
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    set_threads(args.threads)
    steps = {"T": args.T} if args.T else {}
    if user_path(args.model).suffix == ".safetensors" or user_path(args.model).is_file():
        saved = load_checkpoint(args.model)
        model = saved.build_model(**steps)
        images, source = _images(saved, args)
    else:
        torch.manual_seed(0)
        model = create_model(args.model, **steps)
        images = torch.randn(min(args.images, 4), model.in_channels, *model.img_size)
        fit_rates(model, images)
        source = f"random weights and {len(images)} random inputs"
    cost = measure_cost(model, images)
    parameters = sum(p.numel() for p in model.parameters())
    if args.json:
        print(json.dumps(_as_dict(model, parameters, source, cost)))
    else:
        _show(model, parameters, source, cost)
    return 0


def _images(saved: Checkpoint, args: argparse.Namespace) -> tuple[Tensor, str]:
    stored = with_steps(saved.config["data"], args.T)
    if not finds_data(stored, args.data, args.root):
        images = stored_preparation(stored)(_random(stored, min(args.images, 16)))
        moved = f"{stored['root']} is not there any more; " if stored.get("root") else ""
        return images, f"{len(images)} random inputs ({moved}--root gives rates on real images)"
    data = load_stored(stored, saved.path, args.data, args.root, open_display())
    images = first_images(data.test, args.images)
    return stored_preparation(stored)(images), f"{len(images)} test images of {data.name}"


def _random(stored: dict[str, Any], count: int) -> Tensor:
    """As the data set holds its samples; frames of events get counts."""
    size, shape = stored["img_size"], stored.get("input_shape", ())
    if len(shape) == 4:
        return torch.poisson(torch.full((count, *shape), 0.2))
    return torch.randn(count, len(stored["mean"]), size, size)


def _as_dict(
    model: SpikingClassifier, parameters: int, source: str, cost: Cost
) -> dict[str, object]:
    return {
        "parameters": parameters,
        "T": model.T,
        "measured_on": source,
        "macs": cost.total("macs"),
        "sops": cost.total("sops"),
        "spikes": cost.total("spikes"),
        "rate": cost.rate,
        "energy_pj": cost.total("energy"),
        "layers": [{**vars(row), "energy_pj": row.energy} for row in cost.rows],
    }


def _show(model: SpikingClassifier, parameters: int, source: str, cost: Cost) -> None:
    height, width = model.img_size
    print(
        f"{type(model).__name__}: {model.in_channels}x{height}x{width} to {model.num_classes} "
        f"classes, depth {model.depth}, width {model.embed_dim}, {model.num_heads} heads, "
        f"{model.num_tokens} tokens, T={model.T}, {model.reset_mode} reset, "
        f"{quantity(parameters)} parameters"
    )
    print(f"measured on {source}:\n")
    print(cost.table())
