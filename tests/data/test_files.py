"""Readers of idx files and CIFAR pickles, on small files in the real formats."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.image_files import idx_bytes

from stmixer_ops.data import load_dataset
from stmixer_ops.data.cifar import read_batch
from stmixer_ops.data.idx import read_idx

RNG = np.random.default_rng(0)


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    for prefix, count in (("train", 30), ("t10k", 10)):
        pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return tmp_path


@given(
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    compressed=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_idx_round_trip(tmp_path_factory, shape, compressed, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / "a"
    raw = idx_bytes(array)
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    np.testing.assert_array_equal(read_idx(path, array.ndim), array)


@given(keep=st.integers(0, 4 + 12 + 2 * 3 * 4 - 1), compressed=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_truncated_idx_file_is_refused_by_name(tmp_path_factory, keep, compressed):
    raw = idx_bytes(np.zeros((2, 3, 4), np.uint8))
    packed = gzip.compress(raw)
    path = tmp_path_factory.mktemp("idx") / "cut"
    path.write_bytes(packed[: keep * len(packed) // len(raw)] if compressed else raw[:keep])
    with pytest.raises(ValueError, match=r"cut: "):
        read_idx(path, 3)


def test_idx_errors_say_what_was_expected(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match=r"labels: expected the idx magic number 00000803 .*0801"):
        read_idx(path, 3)
    path.write_bytes(idx_bytes(np.zeros(5, np.uint8)) + b"!")
    with pytest.raises(ValueError, match=r"5 bytes were expected after it, got 6"):
        read_idx(path, 1)


def test_fashion_mnist_layouts(fashion, tmp_path):
    data = load_dataset("fashion-mnist", fashion)
    assert (len(data.train), len(data.test), data.num_classes) == (30, 10, 10)
    assert (data.in_channels, data.img_size) == (1, 28)
    assert data.train.images.shape == (30, 1, 28, 28)
    with gzip.open(fashion / "train-images-idx3-ubyte.gz") as file:
        first = np.frombuffer(file.read()[16 : 16 + 784], np.uint8).reshape(28, 28)
    np.testing.assert_array_equal(data.train[0][0][0].numpy(), first)
    assert [label for _, label in (data.test[i] for i in range(10))] == list(range(10))

    nested = tmp_path / "outer" / "FashionMNIST" / "raw"  # as torchvision leaves it
    nested.mkdir(parents=True)
    for file in list(fashion.glob("*ubyte*")):
        os.replace(file, nested / file.name)
    (tmp_path / "outer" / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="expected train-images-idx3-ubyte or"):
        load_dataset("mnist", tmp_path / "outer")
    again = load_dataset("fashion-mnist", tmp_path / "outer", img_size=32)
    assert again.train.images.shape == (30, 1, 32, 32)
    assert again.train.images.dtype == torch.uint8


def test_idx_pair_must_fit_together(fashion):
    (fashion / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(9, np.uint8)))
    with pytest.raises(ValueError, match=r"t10k-labels.*expected 10 labels.*got 9"):
        load_dataset("fashion-mnist", fashion)
    (fashion / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(10, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"expected labels below 10, got 10"):
        load_dataset("fashion-mnist", fashion)
    (fashion / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        load_dataset("fashion-mnist", fashion)


def write_cifar10(root: Path, protocol: int, per_batch: int = 4) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (6, per_batch, 3072), dtype=np.uint8)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name, batch in zip(names, pixels, strict=True):
        content = {b"data": batch, b"labels": [3] * per_batch, b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    meta = {"label_names": [f"class{i}" for i in range(10)], "num_cases_per_batch": per_batch}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return pixels


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar10_python_layout(tmp_path, protocol):
    pixels = write_cifar10(tmp_path, protocol)
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        data = load_dataset("cifar10", root)
        assert data.train.images.shape == (20, 3, 32, 32)
        np.testing.assert_array_equal(data.test.images.numpy().reshape(4, 3072), pixels[5])
        assert data.classes[3] == "class3" and set(data.train.labels.tolist()) == {3}


def test_cifar_file_written_by_python_2(tmp_path):
    # Protocol 2 with numpy.core and latin-1 strings, as the published archives have it.
    array = np.arange(3072, dtype=np.uint8)[None]
    modern = pickle.dumps({"data": array, "fine_labels": [7]}, 2)
    old = modern.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "train").write_bytes(old)
    pixels, labels = read_batch(tmp_path / "train", "fine_labels")
    np.testing.assert_array_equal(pixels, array)
    assert labels == [7]


def test_cifar100_python_layout(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 6), ("test", 2)):
        content = {
            b"data": np.zeros((count, 3072), np.uint8),
            b"fine_labels": list(range(count)),
            b"coarse_labels": [0] * count,
        }
        (folder / name).write_bytes(pickle.dumps(content, 2))
    names = [f"fine{i}".encode() for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, 2))
    data = load_dataset("cifar100", tmp_path)
    assert data.num_classes == 100 and data.classes[5] == "fine5"
    assert data.train.labels.tolist() == list(range(6))
    assert data.mean == (0.4914, 0.4822, 0.4465)  # CIFAR-10's, as the official code has it


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_cifar_pickle_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path, 2)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(ValueError, match=r"data_batch_2: .*system is not allowed"):
        load_dataset("cifar10", tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable CIFAR file"),
        (pickle.dumps([1]), "expected a dictionary, got a list of 1"),
        (pickle.dumps({"labels": [1]}), r"expected 'data' to be uint8 \[N, 3072\], got nothing"),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
            "expected 'labels' to be a list of 2 labels, got a list of 1",
        ),
    ],
)
def test_damaged_cifar_batches(tmp_path, content, message):
    write_cifar10(tmp_path, 4)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=f"test_batch: {message}"):
        load_dataset("cifar10", tmp_path)


def test_truncated_cifar_batch(tmp_path):
    write_cifar10(tmp_path, 4)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="data_batch_5: not a readable CIFAR file"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte"),
        ("{}-images.idx3-ubyte.gz", "{}-labels-idx1-ubyte"),
        ("{0}-images-idx3-ubyte/{0}-images-idx3-ubyte",
         "{0}-labels-idx1-ubyte/{0}-labels-idx1-ubyte"),
        ("{0}-images-idx3-ubyte/{0}-images.idx3-ubyte", "{}-labels.idx1-ubyte.gz"),
    ],
)  # fmt: skip
def test_idx_files_as_they_are_unpacked(tmp_path, images, labels):
    for prefix, count in (("train", 4), ("t10k", 2)):
        pair = np.zeros((count, 3, 3), np.uint8), np.arange(count, dtype=np.uint8)
        for name, array in zip((images, labels), pair, strict=True):
            path = tmp_path / name.format(prefix)
            path.parent.mkdir(exist_ok=True)
            raw = idx_bytes(array)
            path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    data = load_dataset("mnist", tmp_path)
    assert data.train.labels.tolist() == [0, 1, 2, 3] and len(data.test) == 2


def test_cifar_in_a_folder_of_another_name(tmp_path):
    write_cifar10(tmp_path, 4)
    (tmp_path / "cifar-10-batches-py").rename(tmp_path / "my CIFAR")
    assert len(load_dataset("cifar10", tmp_path / "my CIFAR").train) == 20
    with pytest.raises(FileNotFoundError, match="expected cifar-10-batches-py .* or"):
        load_dataset("cifar10", tmp_path)
