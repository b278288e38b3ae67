"""The training run: recipe in, checkpoints, log and curves out; resumes bit for bit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from .._files import user_path
from ..data import ImageData, load_dataset, normalise
from ..models import create_model
from ..models.base import SpikingClassifier
from ..nn import LIF, SMLLoss
from .augment import Augmentation, build_augmentation, flip_and_shift
from .batches import steps_per_epoch, training_batches
from .checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from .evaluate import evaluate
from .history import Record, draw_curves, write_log
from .progress import Display, Quiet
from .recipe import Recipe, learning_rate
from .seeds import generator, seed_all

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model in eval mode, its history, the folder with the files."""

    model: SpikingClassifier
    history: list[Record]
    out: Path

    @property
    def last(self) -> Path:
        return self.out / LAST

    @property
    def best(self) -> Path:
        return self.out / BEST


def train(
    recipe: Recipe | None = None,
    *,
    out: str | Path,
    root: str | Path | None = None,
    data: ImageData | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    resume: bool = False,
    init_from: str | Path | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Train a model and write ``last.safetensors``, ``best.safetensors``, the log and curves.

    All that is random follows from the recipe's seed, the epoch and the step. A run that was
    stopped, by ``kill -9`` too, goes on from the last whole epoch and on a CPU ends with the same
    bits as an uninterrupted one, given the same number of threads. ``best`` is picked by the test
    accuracy; ``last`` is not picked by anything.

    Args:
        recipe: what to train; None resumes with the recipe inside ``out/last.safetensors``.
        out: folder of the results, made if missing.
        root: folder of the data set.
        data: the data set itself, instead of ``recipe.data`` from ``root``.
        device: "cpu", "cuda", ... or "auto".
        threads: torch's CPU threads, set for the whole process.
        workers: processes that load files; 0 loads in this one.
        resume: go on from ``out/last.safetensors`` if there is one.
        init_from: checkpoint to take the first weights from (any T).
        display: where progress is shown; nowhere by default.
    Raises:
        FileExistsError: ``out`` holds a run and ``resume`` is False.
        ValueError: the run in ``out`` has another recipe, augmentation or data.
        RuntimeError: the loss is not finite any more.
    """
    out = user_path(out)
    display = display or Quiet()
    saved = _find_run(out, recipe, resume)
    if saved is not None:
        recipe = Recipe.from_dict(saved.config["recipe"])
    if recipe is None:
        raise ValueError(f"{out}: has no {LAST} to resume, so a recipe is needed")
    if data is None:
        data = load_dataset(recipe.data, root, img_size=recipe.img_size)
    if threads is not None:
        torch.set_num_threads(threads)
    run = _Run(recipe, data, _device(device), workers, out, display)
    run.start(saved, init_from)
    for epoch in range(len(run.history), recipe.total_epochs):
        run.epoch(epoch)
    run.model.eval()
    return TrainResult(run.model, run.history, out)


def _find_run(out: Path, recipe: Recipe | None, resume: bool) -> Checkpoint | None:
    if not (out / LAST).exists():
        return None
    if not resume:
        raise FileExistsError(f"{out / LAST}: exists; resume it or choose another folder")
    saved = load_checkpoint(out / LAST)
    if "recipe" not in saved.config or "history" not in saved.config:
        raise ValueError(f"{saved.path}: holds no training run to resume")
    if recipe is not None:
        stored, given = saved.config["recipe"], recipe.to_dict()
        changed = [k for k in given if given[k] != stored.get(k)]
        if changed:
            k = changed[0]
            raise ValueError(
                f"{saved.path}: resume goes on with the recipe inside; {k} is {stored.get(k)!r} "
                f"there, got {given[k]!r}"
            )
    return saved


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a GPU that torch can use, got 'cuda' without one")
    return device


class _Run:
    """One model, its optimiser and its data, between epochs."""

    def __init__(
        self,
        recipe: Recipe,
        data: ImageData,
        device: torch.device,
        workers: int,
        out: Path,
        display: Display,
    ) -> None:
        self.recipe, self.data, self.device = recipe, data, device
        self.workers, self.out, self.display = workers, out, display
        self.history: list[Record] = []
        self.amp = recipe.amp and device.type == "cuda"
        self.augmentation: Augmentation = build_augmentation(recipe, data)
        self.mean = torch.tensor(data.mean, device=device)
        self.std = torch.tensor(data.std, device=device)
        self.steps = steps_per_epoch(len(data.train), recipe.batch_size)
        self.model_args: dict[str, Any] = {
            "num_classes": data.num_classes,
            "img_size": data.img_size,
            "in_channels": data.in_channels,
            "T": recipe.T,
            "reset": recipe.reset,
            **({"sml": True} if recipe.sml else {}),
            **recipe.model_args,
        }
        seed_all(recipe.seed)
        self.model: SpikingClassifier = self._create().to(device)
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=recipe.lr)
        # With mixup the targets are soft and smoothed already.
        smoothing = 0.0 if self.augmentation.mix else recipe.label_smoothing
        criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)
        self.loss: nn.Module = SMLLoss(criterion=criterion) if recipe.sml else criterion

    def _create(self) -> SpikingClassifier:
        try:
            return create_model(self.recipe.model, **self.model_args)
        except TypeError as error:
            sml = " (sml is for STMixer)" if self.recipe.sml else ""
            raise ValueError(
                f"recipe: model {self.recipe.model!r} does not take these arguments: {error}{sml}"
            ) from error

    def _parameter_groups(self) -> list[dict[str, Any]]:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.ndim > 1]
        rest = [p for p in parameters if p.ndim <= 1]
        return [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]

    def start(self, saved: Checkpoint | None, init_from: str | Path | None) -> None:
        """Say what runs, and take over a saved state."""
        parameters = sum(p.numel() for p in self.model.parameters())
        self.display.line(
            f"{self.recipe.model} on {self.data.name}: T={self.recipe.T}, "
            f"{parameters / 1e6:.3f} M parameters, {len(self.data.train)} + "
            f"{len(self.data.test)} images, {self.device}, {torch.get_num_threads()} threads"
        )
        for note in self.augmentation.notes:
            self.display.line(note)
        if saved is not None:
            self._resume(saved)
        elif init_from is not None:
            load_weights(self.model, load_checkpoint(init_from).model_state, init_from)
            self.display.line(f"weights from {init_from}")

    def _resume(self, saved: Checkpoint) -> None:
        now = self._config()
        for key in ("data", "augmentation"):
            if saved.config[key] != now[key]:
                raise ValueError(
                    f"{saved.path}: was trained with {key} {saved.config[key]!r}, "
                    f"here it would go on with {now[key]!r}"
                )
        if saved.config["threads"] != now["threads"]:
            self.display.line(
                f"note: {now['threads']} threads now, {saved.config['threads']} before: "
                "rounding may differ from an uninterrupted run"
            )
        load_weights(self.model, saved.model_state, saved.path)
        saved.restore_optimizer(self.optimizer, self.model)
        self.history = list(saved.config["history"])
        write_log(self.out, self.history)
        self.display.line(f"resumed after epoch {len(self.history)} of {self.recipe.total_epochs}")

    def epoch(self, epoch: int) -> None:
        """Train for epoch ``epoch`` (from 0), test, and write everything."""
        start = time.perf_counter()
        train_loss = self._train(epoch)
        result = evaluate(
            self.model,
            self.data.test,
            self.data.mean,
            self.data.std,
            batch_size=max(self.recipe.batch_size, 128),
            amp=self.amp,
            workers=self.workers,
        )
        previous = max((r["test_top1"] for r in self.history), default=-1.0)
        self.history.append(
            Record(
                epoch=epoch + 1,
                lr=self.optimizer.param_groups[0]["lr"],
                train_loss=train_loss,
                test_loss=result.loss,
                test_top1=result.top1,
                seconds=round(time.perf_counter() - start, 3),
            )
        )
        config = self._config()
        if result.top1 > previous:
            save_checkpoint(self.out / BEST, self.model, config)
        save_checkpoint(self.out / LAST, self.model, config, self.optimizer)
        write_log(self.out, self.history)
        self.display.line(
            f"epoch {epoch + 1:>3}/{self.recipe.total_epochs}  loss {train_loss:.4f}  "
            f"test {100 * result.top1:.2f} %  {self.history[-1]['seconds']:.1f} s"
        )
        if epoch + 1 == self.recipe.total_epochs:
            title = f"{self.recipe.model} on {self.data.name}, T={self.recipe.T}"
            if (reason := draw_curves(self.out / "curves.png", self.history, title)) is not None:
                self.display.line(reason)

    def _train(self, epoch: int) -> float:
        """Mean loss of one pass over the training set."""
        recipe, augmentation = self.recipe, self.augmentation
        off = recipe.mixup_off_epoch is not None and epoch >= recipe.mixup_off_epoch
        batches = training_batches(
            self.data.train,
            recipe.batch_size,
            (recipe.seed, epoch),
            augmentation.transform,
            self.workers,
        )
        self.model.train()
        total = torch.zeros((), device=self.device)
        label = f"epoch {epoch + 1}/{recipe.total_epochs}"
        with self.display.task(label, self.steps) as advance:
            for step, (images, labels) in enumerate(batches):
                seed_all(recipe.seed, epoch, step)
                shifts = generator(recipe.seed, epoch, step, 1)
                images, labels = images.to(self.device), labels.to(self.device)
                images = normalise(images, self.mean, self.std)
                images = flip_and_shift(images, recipe.flip, recipe.crop_padding, shifts)
                if augmentation.mix is not None:
                    images, labels = augmentation.mix(images, labels, off)
                lr = learning_rate(recipe, epoch * self.steps + step, self.steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                loss = self._step(images, labels)
                total += loss
                advance(f"loss {float(loss):.3f}" if step % 10 == 0 else "")
        mean = float(total) / self.steps
        if not torch.isfinite(total):
            raise RuntimeError(f"the loss is not finite in epoch {epoch + 1} (lr {lr:.2g}): {mean}")
        return mean

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            output = self.model(images, return_aux=True) if self.recipe.sml else self.model(images)
            loss = self.loss(output, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _config(self) -> dict[str, Any]:
        """What goes into the checkpoints; ``stmixer_ops.train.load_checkpoint`` reads it."""
        data = self.data
        return {
            "stmixer_ops": __version__,
            "torch": torch.__version__,
            "model": {"name": self.recipe.model, "kwargs": self.model_args},
            "neuron": _neuron(self.model),
            "data": {
                "name": data.name,
                "classes": list(data.classes),
                "mean": list(data.mean),
                "std": list(data.std),
                "img_size": data.img_size,
                "images": [len(data.train), len(data.test)],
            },
            "recipe": self.recipe.to_dict(),
            "augmentation": self.augmentation.source,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "epoch": len(self.history),
            "history": self.history,
        }


def _neuron(model: nn.Module) -> dict[str, Any]:
    """The first neuron's constants, for readers of the file; the model's keywords rebuild it."""
    lif = next(m for m in model.modules() if isinstance(m, LIF))
    return {
        "threshold": lif.threshold,
        "decay": lif.decay,
        "reset": lif.reset_mode,
        "surrogate": repr(lif.surrogate),
    }
