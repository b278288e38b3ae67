"""``stmixer demo``: from images to a network in the engine, and what that buys."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._files import user_path, write_atomically
from .._optional import require
from ..data import ImageData, first_images, load_dataset
from ..engine import Engine
from ..measure.compare import Comparison, compare
from ..measure.cost import measure_cost
from ..measure.energy import Cost
from ..measure.picture import Bars, draw_demo
from ..measure.table import energy, format_table, quantity
from ..measure.timing import latency
from ..train.checkpoint import load_checkpoint
from ..train.loop import LAST, train
from ..train.progress import Display, open_display
from ..train.recipe import Recipe, get_recipe
from ._arguments import positive
from ._labels import write_labels

TARGET = 0.97  # test accuracy that the full demo has to reach


@dataclass(frozen=True)
class Outcome:
    """What one trained and compiled network turned out to do."""

    T: int
    top1: float
    engine_top1: float
    cost: Cost
    comparison: Comparison
    torch_ms: float
    engine_ms: float


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("--out", default="out/demo", help="folder for the results (out/demo)")
    parser.add_argument("--quick", action="store_true", help="few epochs, lower accuracy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="CPU threads to train with (default 1: so small a network gains little from more)",
    )


def recipes(quick: bool, seed: int) -> dict[int, Recipe]:
    """By T; the network with 4 steps starts from the weights of the one with 1."""
    first = get_recipe("digits", seed=seed, epochs=7 if quick else 16, warmup_epochs=1)
    later = first.replace(T=4, epochs=1 if quick else 5, lr=6e-3, warmup_epochs=0.5)
    return {1: first, 4: later}


def run(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    for module, purpose in (("sklearn", "the demo's data"), ("matplotlib", "the demo's picture")):
        require(module, "train", purpose)  # now rather than after the training
    out, display = user_path(args.out), open_display()
    data = load_dataset("digits")
    assert isinstance(data, ImageData)
    images = data.prepare(first_images(data.test, len(data.test)))
    baseline = _linear_baseline()
    display.line(f"linear baseline (logistic regression on pixels): {100 * baseline:.2f} %")
    outcomes, previous = [], None
    for steps, recipe in recipes(args.quick, args.seed).items():
        folder = out / f"t{steps}"
        (folder / LAST).unlink(missing_ok=True)
        trained = train(
            recipe, data=data, out=folder, threads=args.threads, init_from=previous,
            display=display,
        )  # fmt: skip
        previous = trained.last
        outcomes.append(_compile_and_compare(steps, trained.last, images, data, display))
    print(_report(baseline, outcomes))
    _write_results(out / "results.json", baseline, outcomes)
    _draw(out / "demo.png", data, images, baseline, outcomes)
    print(f"\npicture: {out / 'demo.png'}\ntotal: {time.perf_counter() - start:.0f} s")
    return _verdict(outcomes, args.quick)


def _linear_baseline() -> float:
    """Test accuracy of a logistic regression on the original 8x8 pixels, same split."""
    linear_model = require("sklearn.linear_model", "train", "the linear baseline")
    data = load_dataset("digits", img_size=8)
    pixels = [
        first_images(part, len(part)).flatten(1).numpy() / 255 for part in (data.train, data.test)
    ]
    model = linear_model.LogisticRegression(max_iter=500)
    model.fit(pixels[0], data.train.labels.numpy())
    return float(model.score(pixels[1], data.test.labels.numpy()))


def _compile_and_compare(
    steps: int, checkpoint: Path, images: Tensor, data: ImageData, display: Display
) -> Outcome:
    saved = load_checkpoint(checkpoint)
    model = saved.build_model()
    path = checkpoint.with_name(f"digits_t{steps}.stmx")
    Engine.compile(model).save(path)
    write_labels(path, saved.config["data"])
    display.line(f"compiled: {path}")
    comparison = compare(model, Engine.load(path), images)
    with torch.inference_mode():
        torch_answers = model(images).argmax(1)
    labels = data.test.labels
    torch_ms, engine_ms = _best_latency(model, path, images[:1])
    return Outcome(
        steps,
        float((torch_answers == labels).double().mean()),
        float((torch.tensor(comparison.engine_answers) == labels).double().mean()),
        measure_cost(model, images),
        comparison,
        torch_ms,
        engine_ms,
    )


def _best_latency(model: torch.nn.Module, path: Path, image: Tensor) -> tuple[float, float]:
    """With one thread and with all CPUs: each side may take what suits it."""
    threads = torch.get_num_threads()
    times = []
    try:
        for count in sorted({1, Engine.load(path).num_threads}):
            torch.set_num_threads(count)
            engine = Engine.load(path, num_threads=count)
            with torch.inference_mode():
                times.append(latency(model, engine, image))
    finally:
        torch.set_num_threads(threads)
    torch_ms, engine_ms = (min(column) for column in zip(*times, strict=True))
    return torch_ms, engine_ms


def _report(baseline: float, outcomes: list[Outcome]) -> str:
    rows = [["linear baseline", f"{100 * baseline:.2f} %", *["-"] * 7]]
    for o in outcomes:
        rows.append(
            [
                f"STMixer, T={o.T}",
                f"{100 * o.top1:.2f} %",
                f"{100 * o.engine_top1:.2f} %",
                quantity(o.cost.total("spikes")),
                f"{o.cost.rate:.3f}",
                quantity(o.cost.total("sops")),
                energy(o.cost.total("energy")),
                f"{o.torch_ms:.2f} ms",
                f"{o.engine_ms:.2f} ms",
            ]
        )
    header = [
        "",
        "test accuracy",
        "engine",
        "spikes",
        "rate",
        "SOPs",
        "energy",
        "PyTorch",
        "engine",
    ]
    lines = ["", format_table(header, rows)]
    lines.append(
        "per image; energy: 4.6 pJ per MAC on real numbers, 0.9 pJ per SOP; times: batch 1, median"
    )
    lines.append("\nengine against PyTorch, all test images: spike values that differ\n")
    names = outcomes[0].comparison.compared
    lines.append(
        format_table(
            ["population", *(f"T={o.T}" for o in outcomes)],
            [
                [
                    name,
                    *(
                        f"{o.comparison.different[name]:,} of {o.comparison.compared[name]:,}"
                        for o in outcomes
                    ),
                ]
                for name in names
            ],
        )
    )
    return "\n".join([*lines, "", *(_flips(o) for o in outcomes)])


def _flips(outcome: Outcome) -> str:
    a = outcome.comparison
    text = f"T={outcome.T}: same answer on {a.answers} of {a.images} images; "
    if not a.flips:
        return text + "every spike equal"
    listed = ", ".join(f"{index} ({name})" for index, name in sorted(a.flips.items()))
    plural = "image" if len(a.flips) == 1 else "images"
    return text + (f"rounding flips a spike in {len(a.flips)} {plural}, first in: {listed}")


def _write_results(path: Path, baseline: float, outcomes: list[Outcome]) -> None:
    content = {
        "linear_top1": baseline,
        "networks": [
            {
                "T": o.T,
                "top1": o.top1,
                "engine_top1": o.engine_top1,
                "rate": o.cost.rate,
                **{f"{k}_per_image": o.cost.total(k) for k in ("spikes", "macs", "sops")},
                "energy_pj_per_image": o.cost.total("energy"),
                "torch_ms": o.torch_ms,
                "engine_ms": o.engine_ms,
                "values_compared": o.comparison.compared,
                "values_different": o.comparison.different,
                "flips": o.comparison.flips,
                "same_answers": o.comparison.answers,
            }
            for o in outcomes
        ],
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda p: p.write_text(text))


def _draw(
    path: Path, data: ImageData, images: Tensor, baseline: float, outcomes: list[Outcome]
) -> None:
    index = int((data.test.labels == 3).nonzero()[0])
    steps = outcomes[-1].T
    engine = Engine.load(path.parent / f"t{steps}" / f"digits_t{steps}.stmx")
    spikes = {
        name: np.asarray(value)[:, 0]
        for name, value in engine.run(images[index : index + 1], record=True).spikes.items()
    }
    names = [f"T={o.T}" for o in outcomes]

    def chart(title: str, values: list[float], text: list[str]) -> Bars:
        return Bars(title, dict(zip(names, values, strict=True)), text)

    columns = {
        field: [o.cost.total(field) for o in outcomes] for field in ("spikes", "sops", "energy")
    }
    accuracy = [100 * baseline, *(100 * o.top1 for o in outcomes)]
    times = {f"PyTorch\nT={o.T}|PyTorch": o.torch_ms for o in outcomes}
    times |= {f"engine\nT={o.T}|T={o.T}": o.engine_ms for o in outcomes}
    floor = min(90.0, min(accuracy) - 2)
    bars = [
        Bars(
            f"accuracy (axis from {floor:.0f} %)",
            dict(zip(["linear", *names], accuracy, strict=True)),
            [f"{a:.1f} %" for a in accuracy],
            floor=floor,
        ),
        chart("spikes per image", columns["spikes"], [quantity(v) for v in columns["spikes"]]),
        chart("synaptic operations", columns["sops"], [quantity(v) for v in columns["sops"]]),
        chart("energy per image", columns["energy"], [energy(v) for v in columns["energy"]]),
        Bars(
            "latency in ms (log axis)",
            times,
            [f"{v:.2f}" for v in times.values()],
            logarithmic=True,
        ),
    ]
    draw_demo(
        path,
        data.test[index][0][0].numpy(),
        f"a “{data.classes[int(data.test.labels[index])]}”",
        spikes,
        bars,
        f"STMixer on digits: every spike of one image, T = {steps}",
    )


def _verdict(outcomes: list[Outcome], quick: bool) -> int:
    """1, and a line that says why, if something does not hold that should."""
    status = 0
    for o in outcomes:
        if o.comparison.wrong:
            print(f"FAILED: T={o.T}: other answers without a flipped spike: {o.comparison.wrong}")
            status = 1
        if not quick and o.top1 < TARGET:
            print(f"FAILED: T={o.T}: {100 * o.top1:.2f} %, expected {100 * TARGET:.0f} %")
            status = 1
    return status
