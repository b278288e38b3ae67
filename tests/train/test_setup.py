"""What a recipe, a data set and the environment make of a run, before and around its loop."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stmixer_ops.data import FrameData, ImageData, MemoryFrames, MemoryImages, stored_preparation
from stmixer_ops.train import RECIPES, Recipe, evaluate, get_recipe, load_checkpoint, train
from stmixer_ops.train.augment import flip_and_shift
from stmixer_ops.train.batches import training_batches
from stmixer_ops.train.distributed import World, join_world
from stmixer_ops.train.loop import _Run
from stmixer_ops.train.progress import Display, duration
from stmixer_ops.train.recipe import photo_recipe
from stmixer_ops.train.seeds import generator, seed_all
from stmixer_ops.train.setup import make_model, model_arguments

TINY = Recipe(
    data="test", model="stmixer_2_16_4", epochs=1, batch_size=64, lr=1e-3, flip=0.5, crop_padding=1
)


def images(count: int, classes: int = 3) -> ImageData:
    """Noise, 8 x 8, as training and as test set."""
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)
    samples = MemoryImages(pixels, torch.arange(count) % max(classes, 1))
    return ImageData("test", samples, samples, tuple("abc"[:classes]), (0.5,), (0.25,), 8)


# -- The schedule ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 2, 77, 300])
def test_epochs_are_those_of_the_whole_run(name, epochs):
    known, recipe = RECIPES[name], get_recipe(name, epochs=epochs)
    assert recipe.total_epochs == epochs
    share = epochs / known.total_epochs
    assert recipe.warmup_epochs == pytest.approx(share * known.warmup_epochs)
    assert recipe.cooldown_epochs == math.floor(share * known.cooldown_epochs)
    assert recipe.replace(epochs=1, cooldown_epochs=0, warmup_epochs=0, mixup_off_epoch=None) == (
        known.replace(epochs=1, cooldown_epochs=0, warmup_epochs=0, mixup_off_epoch=None)
    )


def test_the_recipes_own_epochs_and_explicit_cooldown_stay():
    assert get_recipe("cifar") == get_recipe("cifar", epochs=310) == RECIPES["cifar"]
    recipe = get_recipe("cifar", epochs=20, cooldown_epochs=3, warmup_epochs=1)
    assert (recipe.total_epochs, recipe.warmup_epochs) == (23, 1)
    assert get_recipe("cifar", epochs=31).mixup_off_epoch == 20
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        get_recipe("cifar", epochs=0)


def test_the_papers_imagenet_recipe_in_full():
    assert RECIPES["imagenet"].to_dict() == {
        "data": "folder", "img_size": None, "model": "stmixer_8_768_16", "model_args": {}, "T": 1,
        "reset": "hard", "sml": True, "epochs": 300, "cooldown_epochs": 10, "warmup_epochs": 20,
        "batch_size": 128, "lr": 3e-4, "warmup_lr": 1e-6, "min_lr": 1e-5, "weight_decay": 0.05,
        "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "mixup_off_epoch": None,
        "rand_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25, "flip": 0.5,
        "crop_padding": 0, "frames": None, "step_us": None, "split": None, "fit": None,
        "augment": None, "amp": True, "seed": 0,
    }  # fmt: skip


def test_photos_get_a_small_network_that_suits_them():
    few, many, small = photo_recipe(161, 300), photo_recipe(10**6, 300), photo_recipe(500, 28)
    assert (few.total_epochs, many.total_epochs) == (60, 5)
    assert (few.img_size, small.img_size) == (64, 32)
    for recipe in (few, many, small):
        pixels = torch.zeros(2, 3, recipe.img_size, recipe.img_size, dtype=torch.uint8)
        samples = MemoryImages(pixels, torch.arange(2))
        data = ImageData("p", samples, samples, ("a", "b"), (0.5,) * 3, (0.5,) * 3, recipe.img_size)
        model = make_model(recipe, model_arguments(recipe, data))
        assert sum(p.numel() for p in model.parameters()) < 1e6


def test_numpy_numbers_are_taken_and_others_refused():
    recipe = Recipe(
        epochs=np.int64(3), img_size=np.int32(16), lr=np.float32(0.5), sml=np.bool_(False),
        model_args={"mlp_ratio": np.int64(2)},
    )  # fmt: skip
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert (recipe.epochs, recipe.lr, recipe.sml) == (3, 0.5, False)
    for change in (
        {"epochs": 2.5}, {"epochs": "3"}, {"img_size": 8.0}, {"lr": [1]}, {"lr": "0.1"},
    ):  # fmt: skip
        for make in (Recipe, get_recipe):
            with pytest.raises(ValueError, match=rf"{next(iter(change))} must be a (whole )?numb"):
                make(**change)


# -- What is refused ------------------------------------------------------------------------------


def test_several_processes_are_refused(monkeypatch, tmp_path):
    assert join_world("cpu") == World(0, 1, torch.device("cpu")) and World().is_primary
    monkeypatch.setenv("WORLD_SIZE", "1")
    join_world("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"one process so far, got 2 .*torchrun"):
        train(TINY, data=images(4), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_device_is_refused_by_name():
    with pytest.raises(ValueError, match=r"device must be cpu, cuda, .* got 'toaster'"):
        join_world("toaster")


def test_data_that_teach_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"test: expected at least 2 classes, got \['a'\]"):
        train(TINY, data=images(4, 1), out=tmp_path)
    whole = images(4)
    none = MemoryImages(whole.train.images[:0], whole.train.labels[:0])
    empty = ImageData("test", none, whole.test, whole.classes, whole.mean, whole.std, 8)
    with pytest.raises(ValueError, match="expected images in the training set, got none"):
        train(TINY, data=empty, out=tmp_path)


# -- The loop -------------------------------------------------------------------------------------


class Steps(Display):
    """Counts steps and keeps lines."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.lines = 0, []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def task(self, label, total):
        import contextlib

        def advance(status: str) -> None:
            self.steps += 1

        return contextlib.nullcontext(advance)


@pytest.mark.trains
def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path):
    display = Steps()
    recipe = TINY.replace(lr=1e30, warmup_lr=1e30, batch_size=2)
    with pytest.raises(RuntimeError, match=r"not finite in epoch 1, step \d of 20 \(lr "):
        train(recipe, data=images(40), out=tmp_path, display=display)
    assert display.steps < 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.trains
def test_the_loss_shown_is_the_cross_entropy_of_the_answers(tmp_path):
    recipe = TINY.replace(flip=0.0, crop_padding=0, label_smoothing=0.2)
    data, display = images(12), Steps()
    result = train(recipe, data=data, out=tmp_path, display=display)
    seed_all(recipe.seed)
    model = make_model(recipe, model_arguments(recipe, data)).train()
    ((pixels, labels),) = training_batches(data.train, 12, (recipe.seed, 0))
    with torch.no_grad():
        expected = F.cross_entropy(model((pixels.float() / 255 - 0.5) / 0.25), labels)
    shown = result.history[0]["train_cross_entropy"]
    assert shown == pytest.approx(float(expected), rel=1e-5)
    assert result.history[0]["train_loss"] < 0.7 * shown, "SML weighs it with 0.1"
    assert any(f"loss {shown:.4f}" in line for line in display.lines)
    assert any("12 training images make one step an epoch" in line for line in display.lines)
    assert any("images of 1x8x8 in 3 classes, 1 epochs of 1 steps" in x for x in display.lines)


def test_durations_are_readable():
    assert [duration(s) for s in (0, 89, 600, 5460, 36_900)] == [
        "0 s", "89 s", "10 min", "1 h 31 min", "10 h 15 min"
    ]  # fmt: skip


def test_a_long_run_says_early_and_once_how_long_it_takes():
    run = SimpleNamespace(recipe=Recipe(epochs=10), steps=100, display=Steps(), estimated=False)
    for step in range(100):  # three seconds a step
        _Run._estimate(run, 4, step, 3.0 * (step + 1))
    assert run.display.lines == ["about 30 min for 6 epochs, tests not counted"]
    short = SimpleNamespace(recipe=Recipe(epochs=1), steps=100, display=Steps(), estimated=False)
    for step in range(100):
        _Run._estimate(short, 0, step, 0.01 * (step + 1))
    assert short.display.lines == []


# -- Frames of events -----------------------------------------------------------------------------


def frames(dtype: torch.dtype = torch.float32) -> FrameData:
    """24 recordings of 2 channels in 3 steps; the class decides in which channel more happens."""
    labels = torch.arange(24) % 2
    rate = torch.tensor([[4.0, 0.5], [0.5, 4.0]])[labels]
    counts = torch.poisson(rate[:, None, :, None, None].expand(24, 3, 2, 8, 8))
    samples = MemoryFrames(counts.to(dtype), labels)
    return FrameData("events", samples, samples, ("left", "right"))


@pytest.mark.trains
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_frames_of_events_train(tmp_path, dtype):
    data = frames(dtype)
    assert data.input_shape == (3, 2, 8, 8)
    batch = data.train.frames[:5]
    x = data.prepare(batch)
    assert x.shape == (3, 5, 2, 8, 8) and x.dtype == torch.float32
    assert torch.equal(x[1, 4], batch[4, 1].float())
    recipe = TINY.replace(data="events", epochs=8, batch_size=8, lr=1e-2)
    result = train(recipe, data=data, out=tmp_path)
    saved = load_checkpoint(result.last)
    assert result.history[-1]["test_top1"] > 0.9 and saved.config["model"]["kwargs"]["T"] == 3
    again = evaluate(
        saved.build_model(), data.test, prepare=stored_preparation(saved.config["data"])
    )
    assert again.top1 == result.history[-1]["test_top1"]


def test_frames_check_their_shapes():
    with pytest.raises(ValueError, match=r"numbers \[N, T, C, H, W\], got torch.float32 \[3, 2\]"):
        MemoryFrames(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="frames must be finite"):
        MemoryFrames(torch.full((1, 1, 1, 2, 2), float("nan")), torch.zeros(1))
    two = [MemoryFrames(torch.zeros(1, t, 2, 8, 8), torch.zeros(1)) for t in (3, 4)]
    with pytest.raises(ValueError, match=r"must be \[3, 2, 8, 8\] as in training, got \[4, 2"):
        FrameData("events", *two, ("a", "b"))


def test_all_steps_of_a_sequence_are_moved_alike():
    x = torch.rand(3, 5, 2, 8, 6)
    moved = flip_and_shift(x, 0.5, 2, generator(1))
    for before, after in zip(x, moved, strict=True):
        assert torch.equal(flip_and_shift(before, 0.5, 2, generator(1)), after)


def test_evaluation_needs_to_know_how_to_prepare():
    with pytest.raises(ValueError, match="expected mean and std, or prepare"):
        evaluate(torch.nn.Identity(), images(3).test)


@pytest.mark.trains
def test_fine_tuning_on_other_classes_and_sizes(tmp_path):
    first = train(TINY.replace(epochs=2), data=images(12), out=tmp_path / "first")
    state = load_checkpoint(first.last).model_state
    still = TINY.replace(lr=1e-12, min_lr=0.0, warmup_lr=0.0, flip=0.0, crop_padding=0)
    two = images(12, 2)
    other = ImageData("test", two.train, two.test, ("x", "y", "z"), (0.5,), (0.25,), 8)
    large = MemoryImages(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.arange(4) % 2)
    wide = ImageData("test", large, large, ("a", "b"), (0.5,), (0.25,), 16)
    for name, data, head_stays in (
        ("same", images(12), True), ("fewer", two, False), ("renamed", other, False),
        ("large", wide, False),
    ):  # fmt: skip
        display = Steps()
        result = train(still, data=data, out=tmp_path / name, init_from=first.last, display=display)
        now = load_checkpoint(result.last).model_state
        torch.testing.assert_close(
            now["blocks.1.token_mixer.fc1.weight"], state["blocks.1.token_mixer.fc1.weight"]
        )
        same_head = now["head.weight"].shape == state["head.weight"].shape and torch.allclose(
            now["head.weight"], state["head.weight"], atol=1e-6
        )
        assert same_head == head_stays, name
        assert any("left out the readout" in line for line in display.lines) != head_stays
        assert any("resampled from 2x2 to 4x4" in x for x in display.lines) == (name == "large")
