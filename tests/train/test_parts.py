"""Recipes, the learning rate, batches, augmentation and the log."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stmixer_ops.data import ImageData, MemoryImages
from stmixer_ops.train import RECIPES, Recipe, evaluate, get_recipe, learning_rate
from stmixer_ops.train.augment import build_augmentation, flip_and_shift
from stmixer_ops.train.batches import Transformed, evaluation_batches, training_batches
from stmixer_ops.train.history import draw_curves, write_log
from stmixer_ops.train.progress import Display, open_display
from stmixer_ops.train.seeds import derive, generator


def numbered(count: int, channels: int = 1, size: int = 4) -> MemoryImages:
    """Image i is filled with i, and so is its label."""
    labels = torch.arange(count)
    images = labels.to(torch.uint8)[:, None, None, None].expand(count, channels, size, size)
    return MemoryImages(images.contiguous(), labels)


def bundle(images: MemoryImages) -> ImageData:
    channels = images.images.shape[1]
    mean, std = (0.5,) * channels, (0.25,) * channels
    classes = tuple(map(str, range(len(images))))
    return ImageData("test", images, images, classes, mean, std, images.images.shape[-1])


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    recipe = RECIPES[name]
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_papers_recipes():
    cifar, imagenet = get_recipe(data="cifar100"), get_recipe("imagenet")
    assert (cifar.data, cifar.total_epochs, cifar.lr, cifar.weight_decay) == (
        "cifar100", 310, 5e-3, 0.06,
    )  # fmt: skip
    assert (cifar.mixup, cifar.cutmix, cifar.mixup_off_epoch) == (0.5, 0.5, 200)
    assert (imagenet.lr, imagenet.min_lr, imagenet.batch_size) == (3e-4, 1e-5, 128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": 0}, "T must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"flip": 1.5}, "flip must be from 0 to 1"),
        ({"reset": "firm"}, "reset must be 'hard' or 'soft', got 'firm'"),
        ({"warmup_epochs": 301}, "warmup_epochs must be at most 300"),
        ({"learning_rate": 1}, "no field 'learning_rate'; it has"),
    ],
)
def test_bad_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe().replace(**change)


def test_unknown_recipe():
    with pytest.raises(ValueError, match=r"one of digits, .* got 'nope'"):
        get_recipe("nope")


def test_learning_rate_by_hand():
    recipe = Recipe(
        epochs=10, cooldown_epochs=2, warmup_epochs=2, lr=1.0, warmup_lr=0.2, min_lr=0.1
    )
    rate = [learning_rate(recipe, step, 5) for step in range(60)]
    assert rate[0] == 0.2
    assert rate[5] == pytest.approx(0.6)  # half of the warm-up
    # As in timm the cosine runs over all ten epochs: at epoch 5 it is half-way down.
    assert rate[25] == pytest.approx(0.55)
    assert rate[10] == pytest.approx(0.1 + 0.9 * (1 + np.cos(0.2 * np.pi)) / 2)
    assert rate[50:] == [pytest.approx(0.1)] * 10
    assert all(a >= b for a, b in itertools.pairwise(rate[10:]))


def test_seeds_differ_in_every_part():
    seeds = {derive(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert derive(1, 2) == derive(1, 2)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 16), epoch=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_an_epoch_takes_each_image_at_most_once(count, batch_size, epoch):
    batches = list(training_batches(numbered(count), batch_size, (0, epoch)))
    again = list(training_batches(numbered(count), batch_size, (0, epoch)))
    seen = torch.cat([labels for _, labels in batches])
    assert torch.equal(seen, torch.cat([labels for _, labels in again]))
    full = count // batch_size * batch_size  # the incomplete batch is left out
    assert len(set(seen.tolist())) == len(seen) == (full or count)
    for images, labels in batches:
        assert torch.equal(images[:, 0, 0, 0].long(), labels)
    everything = torch.cat([labels for _, labels in evaluation_batches(numbered(count), 7)])
    assert torch.equal(everything, torch.arange(count))


def test_batches_do_not_depend_on_the_default_device():
    samples = numbered(6)
    expected = [labels for _, labels in training_batches(samples, 2, (0, 0))]
    with torch.device("meta"):
        batches = list(training_batches(samples, 2, (0, 0)))
        (_, everything), *_ = evaluation_batches(samples, 7)
    assert all(torch.equal(a, b) for a, (_, b) in zip(expected, batches, strict=True))
    assert everything.tolist() == [0, 1, 2, 3, 4, 5]


def noise(picture) -> torch.Tensor:
    """A transform that draws from all three generators timm draws from."""
    import random

    value = random.random() + np.random.rand() + torch.rand(())
    return torch.full((1, 4, 4), float(value) + np.array(picture)[0, 0])


def test_transforms_do_not_depend_on_workers_or_history():
    images = numbered(12)
    runs = [
        torch.cat([x for x, _ in training_batches(images, 4, (3, 1), noise, workers)])
        for workers in (0, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert runs[0].unique().numel() == 12, "each image has noise of its own"
    first = Transformed(images, noise, (3, 1))[5][0]
    torch.manual_seed(99)
    assert torch.equal(first, Transformed(images, noise, (3, 1))[5][0])
    assert not torch.equal(first, Transformed(images, noise, (3, 2))[5][0])


@given(padding=st.integers(0, 3), flip=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_flip_and_shift_gives_windows_of_the_reflected_image(padding, flip, seed):
    images = torch.rand(3, 2, 5, 6, generator=torch.Generator().manual_seed(seed))
    out = flip_and_shift(images, flip, padding, generator(seed))
    assert out.shape == images.shape
    for before, after in zip(images.numpy(), out.numpy(), strict=True):
        variants = []
        for mirrored in (False, True):
            if (flip, mirrored) in ((0.0, True), (1.0, False)):
                continue
            source = before[:, :, ::-1] if mirrored else before
            pad = ((0, 0), (padding, padding), (padding, padding))
            padded = np.pad(source, pad, mode="reflect")
            variants += [
                padded[:, y : y + 5, x : x + 6]
                for y in range(2 * padding + 1)
                for x in range(2 * padding + 1)
            ]
        assert any(np.array_equal(after, window) for window in variants)


def test_without_timm_the_log_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    recipe = get_recipe("cifar")
    augmentation = build_augmentation(recipe, bundle(numbered(4, 3, 32)))
    assert augmentation.source == "tensor"
    assert augmentation.transform is None and augmentation.mix is None
    text = " ".join(augmentation.notes)
    assert "without rand_augment, random_erasing, mixup, cutmix" in text
    assert "stmixer-ops[augment]" in text


def test_a_torchvision_that_does_not_fit_is_a_reason_not_a_crash(monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "timm", Broken("timm"))
    monkeypatch.delitem(sys.modules, "timm.data", raising=False)
    notes = build_augmentation(get_recipe("cifar"), bundle(numbered(4, 3, 32))).notes
    assert any("torchvision::nms does not exist" in note for note in notes)


def test_timm_augmentation():
    try:
        import timm.data  # noqa: F401
    except Exception as error:
        pytest.skip(f"timm's augmentation cannot be imported here: {error}")
    data = bundle(numbered(8, 3, 32))
    augmentation = build_augmentation(get_recipe("cifar"), data)
    assert augmentation.source == "timm"
    images, labels = next(training_batches(data.train, 4, (0, 0), augmentation.transform))
    assert images.shape == (4, 3, 32, 32) and images.is_floating_point()
    _, targets = augmentation.mix(images, labels, False)
    assert targets.shape == (4, 8)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    same, hard = augmentation.mix(images, labels, True)
    assert torch.equal(same, images)
    assert torch.equal(hard.argmax(1), labels) and hard.max() > 0.99


def test_mixing_wants_a_pair_of_images():
    pytest.importorskip("timm.data", reason="needs timm")
    data = bundle(numbered(8, 3, 32))
    single = get_recipe("cifar").replace(batch_size=1)
    for recipe, some in ((single, data), (get_recipe("cifar"), bundle(numbered(1, 3, 32)))):
        with pytest.raises(ValueError, match="batch_size must be at least 2 for mixup .* got"):
            build_augmentation(recipe, some)
    assert build_augmentation(single.replace(mixup=0.0, cutmix=0.0), data).mix is None


def test_timm_posterize_to_no_bits():
    try:
        from timm.data import auto_augment
    except Exception as error:
        pytest.skip(f"timm's augmentation cannot be imported here: {error}")
    transform = build_augmentation(get_recipe("cifar"), bundle(numbered(8, 3, 32))).transform
    ops = [op for step in transform.transforms for op in getattr(step, "ops", ())]
    (posterize,) = [op for op in ops if op.name == "PosterizeIncreasing"]
    assert posterize.aug_fn is not auto_augment.posterize
    picture = numbered(200, 3, 4).pil(181)
    assert np.array(posterize.aug_fn(picture, 0)).max() == 0
    assert np.array(posterize.aug_fn(picture, 2)).max() == 0b10000000


def records(count: int) -> list[dict]:
    return [
        {"epoch": i + 1, "lr": 0.1 / (i + 1), "train_loss": 1 / 3, "test_loss": 0.1 * i,
         "test_top1": 0.5 + 0.1 * i, "seconds": 1.5}
        for i in range(count)
    ]  # fmt: skip


def test_evaluation_leaves_each_module_in_its_mode():
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 9)
    )
    model.train()[1].eval()
    evaluate(model, numbered(4), (0.0,), (1.0,), batch_size=2)
    assert [module.training for module in model] == [True, False, True]


def test_the_log_holds_the_history_exactly(tmp_path):
    history = records(3)
    write_log(tmp_path, records(5))
    write_log(tmp_path, history)  # as after a resume from an earlier epoch
    assert json.loads((tmp_path / "log.json").read_text()) == history
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == history
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "log.json"]


def test_curves_are_a_picture_or_a_reason(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    assert draw_curves(tmp_path / "curves.png", records(4), "a title") is None
    with image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 800
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50, "not blank"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "matplotlib cannot be imported" in draw_curves(tmp_path / "no.png", records(1), "")
    assert not (tmp_path / "no.png").exists()


def test_progress_without_a_terminal_is_plain_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    display = open_display()
    assert type(display) is Display
    display.line("before")
    with display.task("work", 2) as advance:
        advance("")
        advance("")
    assert stream.getvalue() == "before\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_display().task("epoch 1/3", 2) as advance:
        advance("loss 0.5")
        advance("loss 0.4")
    assert "epoch 1/3" in stream.getvalue() and "2/2" in stream.getvalue()
