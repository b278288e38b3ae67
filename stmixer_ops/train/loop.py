"""The training run: recipe in, checkpoints, log and curves out; resumes bit for bit."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .._files import user_path, work_folder
from .._numbers import integer
from ..data import EVENT_SETS, Data, load_dataset, stored_root
from .augment import Augmentation, build_augmentation, flip_and_shift
from .batches import steps_per_epoch, training_batches
from .checkpoint import Checkpoint, load_first_weights, load_weights
from .distributed import World, join_world
from .evaluate import evaluate
from .history import Record, write_log
from .progress import Display, Quiet, duration
from .recipe import Recipe, learning_rate
from .results import (
    LAST,
    TrainResult,
    check_same_data,
    describe,
    find_run,
    save_curves,
    save_epoch,
)
from .seeds import generator, seed_all
from .setup import check_data, make_loss, make_model, make_optimizer, model_arguments


def train(
    recipe: Recipe | None = None,
    *,
    out: str | Path,
    root: str | Path | None = None,
    data: Data | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    resume: bool = False,
    init_from: str | Path | None = None,
    check: str = "auto",
    skip_damaged: bool = False,
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
        root: folder of the data set; by default the one that the resumed run had.
        data: the data set itself, instead of ``recipe.data`` from ``root``.
        device: "cpu", "cuda", ... or "auto".
        threads: torch's CPU threads, set for the whole process.
        workers: processes that load files; 0 loads in this one.
        resume: go on from ``out/last.safetensors`` if there is one.
        init_from: file to take the first weights from, of any T, number of classes and input size
            (see :func:`stmixer_ops.models.load_pretrained`).
        check, skip_damaged: image files that cannot be read are found before anything is trained,
            see :func:`stmixer_ops.data.load_dataset`.
        display: where progress is shown; nowhere by default.
    Raises:
        FileExistsError: ``out`` holds a run and ``resume`` is False.
        FileNotFoundError: the data set of a resumed run is not where it was.
        ValueError: the run in ``out`` has another recipe, augmentation or data; damaged images;
            several processes (torchrun).
        RuntimeError: the loss is not finite any more, or another process trains into ``out``.
        OSError: nothing can be written to ``out``.
    """
    out = user_path(out).absolute()  # whoever changes the working directory meanwhile
    display = display or Quiet()
    world = join_world(device)
    workers = integer("workers", workers, least=0)
    if recipe is None and not (out / LAST).exists():
        raise ValueError(f"{out}: has no {LAST} to resume, so a recipe is needed")
    if threads is not None:
        torch.set_num_threads(integer("threads", threads))
    # Gradients are needed whatever mode the caller is in.
    with work_folder(out), torch.inference_mode(False), torch.enable_grad():
        saved = find_run(out, recipe, resume)
        if saved is not None:
            recipe = Recipe.from_dict(saved.config["recipe"])
        assert recipe is not None
        if data is None:
            data = _load_data(recipe, root, saved, check, skip_damaged, display)
        run = _Run(recipe, data, world, workers, out, display)
        run.start(saved, init_from)
        for epoch in range(len(run.history), recipe.total_epochs):
            run.epoch(epoch)
    run.model.eval()
    return TrainResult(run.model, run.history, out)


def _load_data(
    recipe: Recipe,
    root: str | Path | None,
    saved: Checkpoint | None,
    check: str,
    skip_damaged: bool,
    display: Display,
) -> Data:
    """The data set of ``recipe``, by default from where the run of ``saved`` had it."""
    stored = saved.config["data"] if saved is not None else {}
    if root is None and saved is not None:
        root = stored_root(stored, saved.path)
    if root is not None:
        display.line(f"reading {recipe.data} from {root}")
    return load_dataset(
        recipe.data,
        root,
        img_size=recipe.img_size,
        check=check,
        skip_damaged=skip_damaged or bool(stored.get("skipped")),
        T=recipe.T if recipe.data in EVENT_SETS else None,
        frames=recipe.frames,
        step_us=recipe.step_us,
        split=recipe.split,
        fit=recipe.fit,
        progress=display,
    )


class _Run:
    """One model, its optimiser and its data, between epochs."""

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        world: World,
        workers: int,
        out: Path,
        display: Display,
    ) -> None:
        self.recipe, self.data, self.world = recipe, data, world
        self.workers, self.out, self.display = workers, out, display
        self.history: list[Record] = []
        self.amp = recipe.amp and world.device.type == "cuda"
        self.augmentation: Augmentation = build_augmentation(recipe, data)
        check_data(data, mixes=self.augmentation.mix is not None)
        self.steps = steps_per_epoch(len(data.train), recipe.batch_size)
        self.model_args = model_arguments(recipe, data)
        seed_all(recipe.seed)
        self.model = make_model(recipe, self.model_args).to(world.device)
        self.optimizer = make_optimizer(recipe, self.model)
        self.loss = make_loss(recipe, soft_targets=self.augmentation.mix is not None)
        self.seconds: list[float] = []  # of the epochs of this process
        self.estimated = False

    def start(self, saved: Checkpoint | None, init_from: str | Path | None) -> None:
        """Say what runs, and take over a saved state."""
        recipe, data = self.recipe, self.data
        parameters = sum(p.numel() for p in self.model.parameters())
        shape = "x".join(map(str, data.input_shape))
        self.display.line(
            f"{recipe.model} on {data.name}: T={self.model.T}, "
            f"{parameters / 1e6:.3f} M parameters, {len(data.train)} + {len(data.test)} images "
            f"of {shape} in {len(data.classes)} classes, {recipe.total_epochs} epochs of "
            f"{self.steps} steps, {self.world.device}, {torch.get_num_threads()} threads"
        )
        if len(data.train) < recipe.batch_size:
            self.display.line(
                f"note: {len(data.train)} training images make one step an epoch, "
                f"the batch size is {recipe.batch_size}"
            )
        for note in (*data.notes, *self.augmentation.notes):
            self.display.line(note)
        if saved is not None:
            self._resume(saved)
        elif init_from is not None:
            self.display.line(f"weights from {init_from}")
            for note in load_first_weights(self.model, init_from, data.classes):
                self.display.line(note)

    def _resume(self, saved: Checkpoint) -> None:
        now = self._config()
        check_same_data(saved, now)
        if saved.config["threads"] != now["threads"]:
            self.display.line(
                f"note: {now['threads']} threads now, {saved.config['threads']} before: "
                "rounding may differ from an uninterrupted run"
            )
        load_weights(self.model, saved.model_state, saved.path)
        saved.restore_optimizer(self.optimizer, self.model)
        self.history = list(saved.config["history"])
        if self.world.is_primary:
            write_log(self.out, self.history)
        self.display.line(f"resumed after epoch {len(self.history)} of {self.recipe.total_epochs}")

    def epoch(self, epoch: int) -> None:
        """Train for epoch ``epoch`` (from 0), test, and write everything."""
        start = time.perf_counter()
        loss, cross_entropy = self._train(epoch)
        result = evaluate(
            self.model,
            self.data.test,
            prepare=self.data.prepare,
            batch_size=max(self.recipe.batch_size, 128),
            amp=self.amp,
            workers=self.workers,
        )
        self.seconds.append(time.perf_counter() - start)
        self.history.append(
            Record(
                epoch=epoch + 1,
                lr=self.optimizer.param_groups[0]["lr"],
                train_loss=loss,
                train_cross_entropy=cross_entropy,
                test_loss=result.loss,
                test_top1=result.top1,
                seconds=round(self.seconds[-1], 3),
            )
        )
        if self.world.is_primary:
            save_epoch(self.out, self.model, self.optimizer, self._config(), self.history)
        total = self.recipe.total_epochs
        left = (total - epoch - 1) * sum(self.seconds) / len(self.seconds)
        self.display.line(
            f"epoch {epoch + 1:>3}/{total}  loss {cross_entropy:.4f}  "
            f"test {100 * result.top1:.2f} %  {self.history[-1]['seconds']:.1f} s"
            + (f"  {duration(left)} left" if epoch + 1 < total else "")
        )
        if epoch + 1 == total and self.world.is_primary:
            reason = save_curves(self.out, self.history, self.recipe, self.data)
            if reason is not None:
                self.display.line(reason)

    def _train(self, epoch: int) -> tuple[float, float]:
        """Mean loss of one pass over the training set, and mean cross-entropy of its answers."""
        recipe, augmentation, device = self.recipe, self.augmentation, self.world.device
        off = recipe.mixup_off_epoch is not None and epoch >= recipe.mixup_off_epoch
        batches = training_batches(
            self.data.train,
            recipe.batch_size,
            (recipe.seed, epoch),
            augmentation.transform,
            self.workers,
        )
        self.model.train()
        totals = torch.zeros(2, device=device)
        start = time.perf_counter()
        with self.display.task(f"epoch {epoch + 1}/{recipe.total_epochs}", self.steps) as advance:
            for step, (samples, labels) in enumerate(batches):
                seed_all(recipe.seed, epoch, step)
                shifts = generator(recipe.seed, epoch, step, 1)
                x, targets = self.data.prepare(samples, device), labels.to(device)
                x = flip_and_shift(x, recipe.flip, recipe.crop_padding, shifts)
                if augmentation.distort is not None:
                    x = augmentation.distort(x, shifts)
                if augmentation.mix is not None:
                    x, targets = augmentation.mix(x, targets, off)
                lr = learning_rate(recipe, epoch * self.steps + step, self.steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                losses = self._step(x, targets)
                totals += losses
                # Waiting for a GPU's number at every step would cost it more than ten steps do.
                if step % 10 == 0 or step + 1 == self.steps or device.type == "cpu":
                    self._check_finite(totals, epoch, step, lr)
                advance(f"loss {float(losses[1]):.3f}" if step % 10 == 0 else "")
                self._estimate(epoch, step, time.perf_counter() - start)
        loss, cross_entropy = (total / self.steps for total in totals.tolist())
        return loss, cross_entropy

    def _step(self, x: Tensor, targets: Tensor) -> Tensor:
        """One step of the optimiser; its loss, and the cross-entropy of the logits alone."""
        sml = self.recipe.sml
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            output = self.model(x, return_aux=True) if sml else self.model(x)
            loss = self.loss(output, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        logits = (output[0] if sml else output).detach().float()
        return torch.stack([loss.detach().float(), F.cross_entropy(logits, targets)])

    def _check_finite(self, totals: Tensor, epoch: int, step: int, lr: float) -> None:
        if not torch.isfinite(totals).all():
            raise RuntimeError(
                f"the loss is not finite in epoch {epoch + 1}, step {step + 1} of {self.steps} "
                f"(lr {lr:.2g}): {totals.tolist()[0]}; a lower lr or a longer warm-up may help"
            )

    def _estimate(self, epoch: int, step: int, elapsed: float) -> None:
        """Say once, early, how long a run of more than a minute will take."""
        if self.estimated or (elapsed < 10 and step < 20):
            return
        self.estimated = True
        left = self.recipe.total_epochs - epoch
        total = elapsed / (step + 1) * self.steps * left
        if total >= 60:
            self.display.line(f"about {duration(total)} for {left} epochs, tests not counted")

    def _config(self) -> dict[str, object]:
        return describe(
            self.recipe, self.data, self.model, self.model_args, self.augmentation.source,
            self.world.device, self.history,
        )  # fmt: skip
