"""``stmixer models``."""

from __future__ import annotations

import argparse

import torch

from ..measure.table import format_table, quantity
from ..models import create_model, list_models


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.epilog = (
        "Any stmixer_<depth>_<width>_<heads> can be built; these are the published sizes."
    )


def run(args: argparse.Namespace) -> int:
    rows = []
    for name in list_models(with_tags=True):
        with torch.device("meta"):  # shapes without memory
            model = create_model(name)
        height, width = model.img_size
        count = sum(p.numel() for p in model.parameters())
        size = f"{model.in_channels}x{height}x{width}"
        rows.append([name, size, str(model.num_classes), str(model.T), quantity(count)])
    print(format_table(["model", "input", "classes", "T", "parameters"], rows))
    return 0
