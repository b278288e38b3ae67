"""Image folders as people have them: splits, classes, system files, links, damaged pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_files import write_images

from stmixer_ops.data import FolderImages, MemoryImages, load_dataset


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_image_folder(tmp_path, test_name):
    write_images(tmp_path / "train", {"cat": 3, "ant": 2}, (32, 32))
    write_images(tmp_path / test_name, {"cat": 1, "ant": 1}, (32, 32))
    (tmp_path / "README.md").write_text("not an image")
    data = load_dataset("cifar10", tmp_path)
    assert data.classes == ("ant", "cat")
    assert isinstance(data.train, MemoryImages)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(tmp_path / "train" / "cat" / "0001.png"))
    np.testing.assert_array_equal(data.train[3][0].permute(1, 2, 0).numpy(), expected)


def test_large_pictures_stay_on_disk_and_are_fitted(tmp_path):
    write_images(tmp_path, {"a": 5, "b": 10}, (50, 40))
    data = load_dataset("folder", tmp_path, img_size=16)
    assert isinstance(data.train, FolderImages)
    assert [p.name for p in data.test.paths] == ["0004.png", "0004.png", "0009.png"]
    assert not set(data.train.paths) & set(data.test.paths)
    assert data.train[0][0].shape == (3, 16, 16)
    held = load_dataset("folder", tmp_path, img_size=16, in_memory=True)
    assert torch.equal(held.train[7][0], data.train[7][0])
    grey = load_dataset("folder", tmp_path, img_size=16, in_channels=1)
    assert grey.train[0][0].shape == (1, 16, 16) and grey.in_channels == 1


def test_fit_keeps_the_centre(tmp_path):
    # A wide picture, white in its central square and black outside: the crop sees only white.
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 35:85] = 255
    (tmp_path / "a").mkdir()
    for i in range(5):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i}.png")
    data = load_dataset("folder", tmp_path, img_size=20)
    assert data.train[0][0].min() == 255


def test_image_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: expected the folder of data set"):
        load_dataset("folder", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected one folder of images per class"):
        load_dataset("folder", tmp_path)
    write_images(tmp_path / "train", {"a": 1}, (8, 8))
    with pytest.raises(FileNotFoundError, match="expected a folder test or val beside train"):
        load_dataset("folder", tmp_path)
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"test.a: expected images .* of class 'a', found none"):
        load_dataset("folder", tmp_path)
    write_images(tmp_path / "test", {"a": 1, "z": 1}, (8, 8))
    with pytest.raises(ValueError, match=r"class 'z' has no folder in .*train"):
        load_dataset("folder", tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    write_images(tmp_path, {"a": 5}, (8, 8))
    broken = tmp_path / "a" / "0003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"0003\.png: not a readable image"):
        load_dataset("folder", tmp_path, img_size=8)


TWO = {"cat": 6, "dog": 6}


def files_of(root: Path, **options) -> tuple[list[str], list[str]]:
    """Paths below ``root`` of the training and of the test images."""
    data = load_dataset("folder", root, img_size=8, in_memory=False, **options)
    assert data.classes == ("cat", "dog")
    return tuple([str(p.relative_to(root)) for p in s.paths] for s in (data.train, data.test))


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("train", "valid"), ("Train", "validation"), ("TRAIN", "Val")],
)
def test_splits_are_known_in_any_case(tmp_path, train, test):
    write_images(tmp_path / train, TWO, (8, 8))
    write_images(tmp_path / test, {"cat": 2, "dog": 1}, (8, 8))
    found = files_of(tmp_path)
    assert [len(f) for f in found] == [12, 3]
    assert all(f.startswith(train) for f in found[0])
    assert found[1] == [f"{test}/cat/0000.png", f"{test}/cat/0001.png", f"{test}/dog/0000.png"]


@pytest.mark.parametrize(("val", "test"), [("val", "Test"), ("Val", "test")])
def test_of_several_test_sets_the_one_that_is_used_is_named(tmp_path, val, test):
    for name in ("train", val, test):
        write_images(tmp_path / name, TWO, (8, 8))
    data = load_dataset("folder", tmp_path, img_size=8)
    assert data.notes == (f"training set: train, test set: {test}; not used: {val}",)
    # Pictures without classes are a test set whose labels nobody gave away.
    for path in sorted((tmp_path / test).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    Image.new("L", (8, 8)).save(tmp_path / test / "0.png")
    data = load_dataset("folder", tmp_path, img_size=8)
    assert data.notes == (f"training set: train, test set: {val}; not used: {test}",)


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, {"train": 5, "bus": 5}, (8, 8))
    assert load_dataset("folder", tmp_path, img_size=8).classes == ("bus", "train")


def test_splits_that_are_not_whole_are_refused(tmp_path):
    write_images(tmp_path / "only" / "Testing", TWO, (8, 8))
    with pytest.raises(FileNotFoundError, match=r"only: expected one training set .*found Testing"):
        load_dataset("folder", tmp_path / "only")
    for name in ("train", "Training", "test"):
        write_images(tmp_path / "twice" / name, TWO, (8, 8))
    with pytest.raises(FileNotFoundError, match=r"one training set .* found Training, train"):
        load_dataset("folder", tmp_path / "twice")


def test_classes_of_both_splits_are_compared_by_name(tmp_path):
    write_images(tmp_path / "train", {"cat": 2, "dog": 2}, (8, 8))
    write_images(tmp_path / "test", {"Cat": 2, "dog": 2}, (8, 8))
    with pytest.raises(ValueError) as error:
        load_dataset("folder", tmp_path)
    for text in (f"class 'cat' has no folder in {tmp_path}/test",
                 f"class 'Cat' has no folder in {tmp_path}/train"):  # fmt: skip
        assert text in str(error.value)


def test_accents_are_the_same_letters_on_every_system(tmp_path):
    write_images(tmp_path / "train", {"caf\u00e9": 2, "dog": 2}, (8, 8))
    write_images(tmp_path / "test", {"cafe\u0301": 1, "dog": 2}, (8, 8))
    data = load_dataset("folder", tmp_path, img_size=8)
    assert data.classes == ("caf\u00e9", "dog") and data.test.labels.tolist() == [0, 1, 1]


def test_hidden_and_system_files_are_no_data(tmp_path):
    write_images(tmp_path, TWO, (8, 8))
    clean = files_of(tmp_path)
    for folder in (".git", "__MACOSX", "@eaDir", "cat/.ipynb_checkpoints", "dog/@eaDir"):
        write_images(tmp_path, {folder: 1}, (8, 8))
    for name in ("cat/._0000.png", "._cat", "dog/.DS_Store", "dog/Thumbs.db", "cat/desktop.ini"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(100))
    assert files_of(tmp_path) == clean


def test_links_are_followed_once(tmp_path):
    write_images(tmp_path / "elsewhere", {"dog": 6, "more": 2}, (8, 8))
    root = tmp_path / "data"
    write_images(root, {"cat": 6}, (8, 8))
    os.symlink(tmp_path / "elsewhere" / "dog", root / "dog")
    os.symlink(tmp_path / "elsewhere" / "more", root / "cat" / "more")
    os.symlink(root / "cat", root / "cat" / "loop")
    os.symlink("self", root / "cat" / "self")
    train, test = files_of(root)
    assert len(train) + len(test) == 14
    assert "cat/more/0001.png" in train + test and not any("loop" in f for f in train + test)


def test_pictures_without_a_class_folder(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / ".cache").mkdir()
    with pytest.raises(ValueError, match=r"train/<class> and test/<class>, found 1 images without"):
        load_dataset("folder", tmp_path)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path / "pics", TWO, (8, 8))
    assert load_dataset("folder", "~/pics", img_size=8).classes == ("cat", "dog")


def damage(root: Path) -> None:
    """Three bad files among the twelve of TWO, one of them in the test set."""
    cut = root / "cat" / "0001.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    (root / "dog" / "0002.png").write_bytes(b"")
    (root / "dog" / "0004.png").write_text("no picture")


@pytest.mark.parametrize("in_memory", [False, True])
def test_all_damaged_pictures_are_listed_or_left_out(tmp_path, in_memory):
    write_images(tmp_path, TWO, (40, 40))
    clean = load_dataset("folder", tmp_path, img_size=8)
    damage(tmp_path)
    options = {"img_size": 8, "in_memory": in_memory}
    with pytest.raises(ValueError, match="3 of 12 images cannot be read") as error:
        load_dataset("folder", tmp_path, check="full", **options)
    bad = ["cat/0001.png", "dog/0002.png", "dog/0004.png"]
    assert all(name in str(error.value) for name in bad)
    data = load_dataset("folder", tmp_path, skip_damaged=True, **options)
    assert "left out: 3 of 12 images cannot be read" in data.notes[0]
    # What is left is in the set it was in before, and unchanged.
    kept = [i for i, p in enumerate(clean.train.paths) if not str(p).endswith(tuple(bad))]
    assert len(data.train) == len(kept) == 8 and data.test.labels.tolist() == [0]
    for i, j in enumerate(kept):
        assert torch.equal(data.train[i][0], clean.train[j][0])


def test_headers_tell_what_is_no_picture(tmp_path):
    write_images(tmp_path, TWO, (40, 40))
    damage(tmp_path)
    with pytest.raises(ValueError, match=r"2 of 12 .*dog/0002\.png: .*empty.*dog/0004\.png"):
        load_dataset("folder", tmp_path, img_size=8, check="headers")
    with pytest.raises(ValueError, match="check must be one of auto, full, headers, off"):
        load_dataset("folder", tmp_path, img_size=8, check="some")


def test_a_class_of_damaged_pictures_alone_is_refused(tmp_path):
    write_images(tmp_path, TWO, (8, 8))
    for path in (tmp_path / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"class 'cat' has no readable image; left out: 6 of 12"):
        load_dataset("folder", tmp_path, img_size=8, skip_damaged=True)
