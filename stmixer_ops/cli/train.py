"""``stmixer train``: every field of a recipe is an option."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import typing
from pathlib import Path
from typing import Any

from .._files import user_path
from ..data import list_datasets
from ..data.damage import CHECKS
from ..data.event_sets import holds_recordings
from ..data.folder import survey
from ..train.checkpoint import load_checkpoint
from ..train.loop import train
from ..train.progress import open_display
from ..train.recipe import RECIPES, Recipe, changed, get_recipe, photo_recipe
from ..train.results import LAST, check_same_recipe
from ._arguments import device, positive

_EXAMPLES = """examples:
  stmixer train digits --out out/digits
  stmixer train fashion-mnist --root data/fashion-mnist --out out/fashion
  stmixer train cifar10 --root data/cifar10 --recipe cifar-quick --T 4
  stmixer train photos/ --epochs 10 --skip-damaged
  stmixer train nmnist --root data/N-MNIST --out out/nmnist
  stmixer train --resume --out out/fashion"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.set_defaults(run=run)
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help=f"data set ({', '.join(list_datasets())}) or a folder of images or recordings",
    )
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--out", help="folder for the results (default out/<data set>)")
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="by default that of the data set; for a folder a small one that suits its images, "
        "the paper's is imagenet",
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.safetensors")
    parser.add_argument(
        "--check",
        choices=CHECKS,
        default="auto",
        help="how image files are checked before the training: all are decoded (full), only opened "
        "(headers), or neither; auto is full up to 8 GiB",
    )
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out images that cannot be read"
    )
    parser.add_argument(
        "--init-from",
        metavar="FILE",
        help="weights to start from: a checkpoint of stmixer train or of "
        "another script, of any number of classes and size of images",
    )
    parser.add_argument(
        "--device", type=device, default="auto", help="cpu, cuda, ... (default auto)"
    )
    parser.add_argument("--threads", type=positive, help="CPU threads")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load image files (default 0)"
    )
    fields = parser.add_argument_group("recipe", "each replaces the recipe's own value")
    types = typing.get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        if field.name != "data":
            _add_field(fields, field, types[field.name])


def _add_field(group: Any, field: dataclasses.Field[Any], kind: Any) -> None:
    flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
    # Left out means the recipe's value, which None could not say of optional fields.
    options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
    if field.name == "model_args":
        group.add_argument("--model-arg", **options, action="append", metavar="NAME=VALUE")
    elif kind is bool:
        group.add_argument(flag, **options, action=argparse.BooleanOptionalAction)
    elif field.name == "reset":
        group.add_argument(flag, **options, choices=("hard", "soft"))
    else:
        plain = next(k for k in (typing.get_args(kind) or (kind,)) if k is not type(None))
        group.add_argument(flag, **options, type=plain, metavar=plain.__name__.upper())


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    given = vars(args)
    names = {f.name for f in dataclasses.fields(Recipe)} - {"data"}
    changes = {name: given[name] for name in names if name in given}
    if "model_args" in changes:
        changes["model_args"] = dict(map(_assignment, changes["model_args"]))
    return changes


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"--model-arg: expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _recipe(
    args: argparse.Namespace, data: str | None, root: str | None, out: Path, changes: dict[str, Any]
) -> Recipe | None:
    """The recipe to train with; None goes on with that of the run in ``out``."""
    if args.resume and (out / LAST).exists():
        saved = load_checkpoint(out / LAST)
        stored = Recipe.from_dict(saved.config.get("recipe", {}))
        # What is not said again stays; what is said must be what it was.
        given = {**changes, **({"data": data} if data else {})}
        if args.recipe is not None:
            given = get_recipe(args.recipe, **given).to_dict()
        elif "epochs" in changes and "cooldown_epochs" not in changes:
            given["epochs"] = given["epochs"] - stored.cooldown_epochs
        check_same_recipe(saved, given)
        return None
    if data is None and args.recipe is None:
        return None
    if data == "folder" and root is not None and args.recipe is None:
        return changed(photo_recipe(*survey(user_path(root))), changes)
    return get_recipe(args.recipe, data=data, **changes)


def run(args: argparse.Namespace) -> int:
    changes = _changes(args)
    data, root = args.data, args.root
    if data is not None and data not in list_datasets():
        if not (folder := user_path(data)).is_dir():
            raise ValueError(
                f"data set must be one of {', '.join(list_datasets())} or a folder of images or "
                f"recordings, got {data!r}"
            )
        data, root = "events" if holds_recordings(folder) else "folder", data
    if data is None and args.recipe is None:
        if not args.resume:
            raise ValueError("expected a data set, --recipe, or --resume with --out")
        if changes:
            name = sorted(changes)[0]
            raise ValueError(f"--resume goes on with the recipe inside; leave out {name}")
        if args.out is None:
            raise ValueError("--resume needs --out, the folder of the run, or the data set")
    if args.out is not None:
        out = user_path(args.out)
    else:
        out = Path("out") / (data or RECIPES[args.recipe].data)
    recipe = _recipe(args, data, root, out, changes)
    try:
        result = train(
            recipe,
            out=out,
            root=root,
            device=args.device,
            threads=args.threads,
            workers=args.workers,
            resume=args.resume,
            init_from=args.init_from,
            check=args.check,
            skip_damaged=args.skip_damaged,
            display=open_display(),
        )
    except KeyboardInterrupt:
        where = f"--out {out}" + (f" --root {root}" if root else "")
        print(f"stmixer: interrupted; go on with: stmixer train --resume {where}", file=sys.stderr)
        return 130
    top1 = [record["test_top1"] for record in result.history]
    print(
        f"test accuracy {100 * top1[-1]:.2f} % after {len(top1)} epochs "
        f"(best {100 * max(top1):.2f} %)\n{result.last}"
    )
    return 0
