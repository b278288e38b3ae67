"""Whole runs on small data: learning, resuming bit for bit, refusing what does not belong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from stmixer_ops.data import ImageData, MemoryImages, load_dataset
from stmixer_ops.train import Recipe, evaluate, load_checkpoint, train
from stmixer_ops.train.progress import Display

pytest.importorskip("safetensors")

pytestmark = pytest.mark.trains

RECIPE = Recipe(
    data="digits", model="stmixer_2_32_4", epochs=3, warmup_epochs=0.5, lr=1e-2, batch_size=64,
    crop_padding=1, flip=0.5, label_smoothing=0.1, seed=5,
)  # fmt: skip


class Lines(Display):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def small() -> ImageData:
    """The first 320 + 100 digits."""
    data = load_dataset("digits", img_size=8)
    parts = [
        MemoryImages(s.images[:n], s.labels[:n]) for s, n in ((data.train, 320), (data.test, 100))
    ]
    return ImageData("digits", parts[0], parts[1], data.classes, data.mean, data.std, 8)


@pytest.fixture(scope="module")
def straight(small, tmp_path_factory):
    return train(RECIPE, data=small, out=tmp_path_factory.mktemp("straight"))


def assert_same_state(a, b):
    """Weights, buffers, optimiser and all of the history but the clock."""
    first, second = load_checkpoint(a), load_checkpoint(b)
    for x, y in (
        (first.model_state, second.model_state),
        (first.optimizer_state, second.optimizer_state),
    ):
        assert x.keys() == y.keys()
        assert [k for k in x if not torch.equal(x[k], y[k])] == []
    for x, y in zip(first.config["history"], second.config["history"], strict=True):
        assert {**x, "seconds": 0} == {**y, "seconds": 0}


def test_a_run_learns_and_leaves_its_files(straight, small):
    assert straight.history[-1]["train_loss"] < straight.history[0]["train_loss"]
    names = {p.name for p in straight.out.iterdir()}
    assert names == {"last.safetensors", "best.safetensors", "log.csv", "log.json", "curves.png"}
    assert json.loads((straight.out / "log.json").read_text()) == straight.history
    best = load_checkpoint(straight.best)
    assert best.optimizer_state == {}
    assert best.config["neuron"]["reset"] == "hard" and best.config["recipe"]["seed"] == 5
    top1 = max(r["test_top1"] for r in straight.history)
    result = evaluate(best.build_model(), small.test, small.mean, small.std, batch_size=33)
    assert result.top1 == pytest.approx(top1)
    assert result.confusion.sum() == 100 == result.count


def test_evaluate_counts_what_the_model_says(small):
    class Constant(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    model = Constant(1, 1).train()
    result = evaluate(model, small.test, small.mean, small.std, batch_size=7)
    labels = small.test.labels
    assert result.correct == int((labels == 3).sum())
    assert torch.equal(result.confusion[:, 3], labels.bincount(minlength=10))
    logits = torch.eye(10)[[3] * 100]
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert result.loss == pytest.approx(float(expected), rel=1e-6)
    assert model.training, "the mode is put back"


@pytest.mark.parametrize("stop", [1, 2])
def test_resume_from_an_epoch_boundary_is_bit_for_bit(straight, small, tmp_path, stop):
    class Stop(Display):
        def line(self, text: str) -> None:
            if text.startswith(f"epoch   {stop}/"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, data=small, out=tmp_path, display=Stop())
    torch.manual_seed(123)  # nothing may depend on what the generators did before
    display = Lines()
    result = train(data=small, out=tmp_path, resume=True, display=display)
    assert f"resumed after epoch {stop} of 3" in display.lines
    assert_same_state(straight.last, result.last)
    assert_same_state(straight.best, result.best)


WORKER = """
import json
import sys
from stmixer_ops.train import Recipe, train
train(Recipe.from_dict(json.loads(sys.argv[2])), out=sys.argv[1], threads=1)
"""


def test_resume_after_kill_9_is_bit_for_bit(tmp_path):
    recipe = RECIPE.replace(img_size=8)
    cut = tmp_path / "cut"
    arguments = [str(cut), json.dumps(recipe.to_dict())]
    process = subprocess.Popen([sys.executable, "-c", WORKER, *arguments])
    deadline = time.monotonic() + 120
    while not (cut / "log.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # the first epoch is done when its log is there
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert load_checkpoint(cut / "last.safetensors").config["epoch"] < 3
    resumed = train(recipe, out=cut, resume=True)
    whole = train(recipe, out=tmp_path / "whole")
    assert_same_state(whole.last, resumed.last)
    assert_same_state(whole.best, resumed.best)


def test_seeds_make_runs_differ(straight, small, tmp_path):
    other = train(RECIPE.replace(seed=6, epochs=1, warmup_epochs=0), data=small, out=tmp_path)
    a = load_checkpoint(straight.last).model_state["head.weight"]
    assert not torch.equal(a, load_checkpoint(other.last).model_state["head.weight"])


def test_a_run_is_neither_overwritten_nor_resumed_with_another_recipe(straight, small):
    before = straight.last.read_bytes()
    with pytest.raises(FileExistsError, match=r"last\.safetensors: exists; resume it or choose"):
        train(RECIPE, data=small, out=straight.out)
    with pytest.raises(ValueError, match=r"lr is 0.01 there, got 0.5"):
        train(RECIPE.replace(lr=0.5), data=small, out=straight.out, resume=True)
    other = ImageData("digits", small.train, small.test, small.classes, (0.1,), small.std, 8)
    with pytest.raises(ValueError, match=r"was trained with data .*0\.3052.* would go on with"):
        train(RECIPE, data=other, out=straight.out, resume=True)
    assert straight.last.read_bytes() == before


def test_nothing_to_resume_needs_a_recipe(tmp_path, small):
    with pytest.raises(ValueError, match=r"has no last\.safetensors to resume"):
        train(out=tmp_path, data=small, resume=True)


def test_t4_can_start_from_t1_weights(straight, small, tmp_path):
    recipe = RECIPE.replace(T=4, epochs=1, warmup_epochs=0, lr=1e-9, min_lr=0.0, sml=False)
    result = train(recipe, data=small, out=tmp_path, init_from=straight.last)
    assert result.model.T == 4 and len(result.model.surrogates) == 0
    a = load_checkpoint(straight.last).model_state
    b = load_checkpoint(result.last).model_state
    torch.testing.assert_close(a["head.weight"], b["head.weight"], rtol=0, atol=1e-7)


def test_a_model_without_surrogates_says_so(small, tmp_path):
    recipe = RECIPE.replace(model="spikformer_2_32", model_args={"num_heads": 4})
    with pytest.raises(ValueError, match=r"'spikformer_2_32' does not take these .*sml"):
        train(recipe, data=small, out=tmp_path)
    plain = recipe.replace(sml=False, epochs=2, warmup_epochs=0, img_size=8)
    result = train(plain, data=small, out=tmp_path)
    assert len(result.history) == 2
    load_checkpoint(result.last).restore_optimizer(
        torch.optim.AdamW(result.model.parameters()), result.model
    )


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path):
    with pytest.raises(RuntimeError, match=r"loss is not finite in epoch \d"):
        train(RECIPE.replace(lr=1e30), data=small, out=tmp_path)


def test_unusable_devices_are_named(small, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="device: expected a GPU"):
        train(RECIPE, data=small, out=tmp_path, device="cuda")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_and_the_folder_of_the_caller_do_not_matter(small, tmp_path, monkeypatch, mode):
    """In a notebook without gradients, and the working directory changes while it trains."""

    class Moving(Display):
        def line(self, text: str) -> None:
            monkeypatch.chdir(tmp_path)

    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    with mode():
        result = train(
            RECIPE.replace(epochs=1, warmup_epochs=0), data=small, out="run", display=Moving()
        )
    assert (tmp_path / "start" / "run" / "last.safetensors").is_file()
    assert not (tmp_path / "run").exists()
    assert result.last.is_file() and not next(result.model.parameters()).is_inference()


def test_what_cannot_work_is_refused_before_the_first_epoch(small, tmp_path):
    (tmp_path / "file").touch()
    display = Lines()
    for wrong, options in (
        ("threads must be a positive integer", {"threads": 0}),
        ("workers must be an integer of at least 0", {"workers": -1}),
        ("file", {"out": tmp_path / "file"}),
    ):
        with pytest.raises((ValueError, OSError), match=wrong):
            train(RECIPE, **{"data": small, "out": tmp_path, "display": display, **options})
    assert not display.lines


def test_lazy_folders_train_too(tmp_path):
    image = pytest.importorskip("PIL.Image")
    colours = {"red": (200, 10, 10), "green": (10, 200, 10)}
    for name, colour in colours.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            image.new("RGB", (20 + i, 18), colour).save(tmp_path / "data" / name / f"{i}.jpg")
    recipe = Recipe(
        data="folder", img_size=8, model="stmixer_2_16_4", model_args={"downsample": 2},
        epochs=2, batch_size=8, lr=1e-2,
    )  # fmt: skip
    result = train(recipe, root=tmp_path / "data", out=tmp_path / "out", workers=1)
    assert load_checkpoint(result.last).config["data"]["classes"] == ["green", "red"]
    assert len(result.history) == 2
