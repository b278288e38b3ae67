"""The published model for CIFAR10-DVS on recordings, from files to an answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support import event_files as files

import stmixer_ops as so
from stmixer_ops.cli import main
from stmixer_ops.data import load_dataset, stored_preparation
from stmixer_ops.data.event_sets import CIFAR10_CLASSES
from stmixer_ops.train import evaluate, load_checkpoint

pytest.importorskip("safetensors")
pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten recordings of each class."""
    root = tmp_path_factory.mktemp("cifar10-dvs")
    generator = np.random.default_rng(0)
    for label, name in enumerate(CIFAR10_CLASSES):
        (root / name).mkdir()
        for n in range(10):
            times = np.sort(generator.integers(0, 1_300_000, 200)).tolist()
            pixels = generator.integers(12 * label, 12 * label + 12, (200, 2)).tolist()
            rows = [(t, x, y, label % 2) for t, (x, y) in zip(times, pixels, strict=True)]
            (root / name / f"cifar10_{name}_{n}.aedat").write_bytes(files.aedat2(rows))
    return root


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STMIXER_CACHE", str(folder / "cache"))
        argv = ["train", "cifar10-dvs", "--root", str(root), "--out", str(folder / "out")]
        argv += ["--img-size", "48", "--T", "2", "--epochs", "1", "--batch-size", "30"]
        assert main([*argv, "--threads", "1"]) == 0
        yield folder / "out"


def test_the_checkpoint_says_what_it_was_trained_on(root, trained):
    config = load_checkpoint(trained / "last.safetensors").config
    assert config["model"]["name"] == "stmixer_2_256_16.cifar10dvs"
    assert config["augmentation"] == "events"
    assert config["data"]["made"] == {"T": 2, "frames": "number", "fit": "nearest"}
    assert (config["data"]["input_shape"], config["data"]["images"]) == ([2, 2, 48, 48], [90, 10])


def test_it_evaluates_compiles_and_runs(root, trained, capsys):
    checkpoint, engine = trained / "last.safetensors", trained / "last.stmx"
    assert main(["eval", str(checkpoint), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["compile", str(checkpoint)]) == 0
    capsys.readouterr()
    assert main(["eval", str(engine), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confusion"] == told["confusion"]
    path = root / "deer" / "cifar10_deer_9.aedat"
    assert main(["run", str(engine), str(path), "--top", "1"]) == 0
    name = capsys.readouterr().out.split(": ")[1].split()[0]
    data = load_dataset("cifar10-dvs", root, T=2, img_size=48)
    x = data.prepare(data.test.frames[4:5])
    answer = so.Engine.load(engine)(x.numpy()).argmax()
    assert name == CIFAR10_CLASSES[int(answer)]
    saved = load_checkpoint(checkpoint)
    result = evaluate(
        saved.build_model(), data.test, prepare=stored_preparation(saved.config["data"])
    )
    assert result.confusion.tolist() == told["confusion"]


def test_other_steps_make_other_frames(trained, capsys):
    checkpoint = str(trained / "last.safetensors")
    assert main(["compile", checkpoint, "--T", "4", "-o", str(trained / "four.stmx")]) == 0
    assert main(["eval", checkpoint, "--T", "4", "--json"]) == 0
    assert main(["eval", str(trained / "four.stmx"), "--json"]) == 0
    *_, one, two = capsys.readouterr().out.strip().splitlines()
    assert json.loads(one)["confusion"] == json.loads(two)["confusion"]
    assert main(["info", checkpoint, "--images", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured_on"] == "2 test images of cifar10-dvs"


def test_int8_is_calibrated_on_frames(trained, capsys):
    argv = ["compile", str(trained / "last.safetensors"), "--precision", "int8"]
    assert main([*argv, "-o", str(trained / "int8.stmx"), "--calibrate", "8"]) == 0
    text = capsys.readouterr().out
    assert "calibrated on 8 training images" in text and "on 10 test images" in text


def test_it_resumes_from_its_frames(trained, capsys):
    again = ["train", "--resume", "--out", str(trained)]
    assert main(again) == 0
    history = load_checkpoint(trained / "last.safetensors").config["history"]
    assert len(history) == 1 and torch.isfinite(torch.tensor(history[-1]["train_loss"]))


def test_a_folder_of_recordings_is_known_by_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STMIXER_CACHE", str(tmp_path / "cache"))
    for label, name in enumerate(("left", "right")):
        for n in range(5):
            rows = [(t, 16 * label + t % 16, n, 1) for t in range(40)]
            path = tmp_path / "clips" / name / f"{n}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files.bin_events(rows))
    argv = ["train", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--epochs", "1"]
    argv += ["--T", "2", "--img-size", "32", "--model", "stmixer_2_16_4", "--threads", "1"]
    assert main(argv) == 0
    err = capsys.readouterr().err
    assert "2 frames by number; 32 x 32, centre of 34 x 34" in err
    assert "8 + 2 images of 2x2x32x32 in 2 classes" in err
