"""The ``stmixer`` command: each subcommand on a small network, and what mistakes are answered."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stmixer_ops as so
from stmixer_ops.cli import main
from stmixer_ops.measure.table import quantity
from stmixer_ops.train import evaluate, load_checkpoint

pytest.importorskip("safetensors")

SMALL = ["--img-size", "8", "--model", "stmixer_2_32_4", "--threads", "1"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "digits"
    assert main(["train", "digits", *SMALL, "--epochs", "2", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def checkpoint(run_folder) -> str:
    return str(run_folder / "last.safetensors")


def refused(capsys, argv: list[str]) -> str:
    """The one line that ``argv`` is answered with."""
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err
    last = error.rstrip("\n").splitlines()[-1]
    assert last.startswith("stmixer: error: ")
    assert "Traceback" not in error
    return last


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stmixer {so.__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("train", "eval", "info", "compile", "run", "demo", "backends", "models"):
        assert re.search(rf"^ +{command} +\w", text, re.M), command
        assert main([command, "--help"]) == 0


def test_version_does_not_load_torch():
    code = (
        "import sys; from stmixer_ops.cli import main; assert main(['--version']) == 0;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_python_dash_m():
    command = [sys.executable, "-m", "stmixer_ops.cli", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("stmixer ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["train"], "expected a data set, --recipe, or --resume with --out"),
        (["train", "cifar11"], "data set must be one of digits, .* got 'cifar11'"),
        (["train", "cifar10"], "data set 'cifar10' needs root"),
        (["train", "digits", "--T", "0"], "T must be at least 1, got 0"),
        (["train", "digits", "--T", "x"], "argument --T: invalid int value: 'x'"),
        (["train", "digits", "--threads", "0"], "expected a whole number from 1, got '0'"),
        (["train", "digits", "--reset", "firm"], "invalid choice: 'firm'"),
        (["train", "digits", "--model", "resnet50", "--out", "o"], "unknown model 'resnet50'"),
        (["train", "digits", "--model", "stmixer_2_64_5", "--out", "o"], "num_heads must divide"),
        (["train", "digits", "--model-arg", "depth", "--out", "o"], "expected NAME=VALUE"),
        (["train", "digits", "--model-arg", "wings=2", "--out", "o"], "does not take .*wings"),
        (["train", "digits", "--init-from", "no.safetensors", "--out", "o"], "found no file"),
        (["train", "--resume"], "--resume needs --out"),
        (["train", "--resume", "--out", "o"], r"has no last.safetensors to resume"),
        (["eval", "no.safetensors"], "no.safetensors: expected a checkpoint, found no file"),
        (["info", "no.safetensors"], "found no file"),
        (["info", "stmixer_4_384"], "unknown model 'stmixer_4_384'"),
        (["eval", "no.stmx"], "no.stmx"),
        (["eval", "no.stmx", "--T", "2"], "an engine has its T .* leave out --T"),
        (["compile", "no.safetensors"], "found no file"),
        (["compile", "c", "--calibrate", "9"], "--calibrate is for --precision int8"),
        (["compile", "c", "--int16-layers", "a"], "--int16-layers is for --precision int8"),
        (["compile", "c", "--precision", "int8", "--calibrate", "257"], "at most 256, got 257"),
        (["compile", "c", "--precision", "fp16"], "invalid choice: 'fp16'"),
        (["run", "no.stmx", "a.png"], "no.stmx"),
        (
            ["train", "digits", "--device", "tpu"],
            r"argument --device: expected a device that "
            r"PyTorch can use here \(auto, cpu.*\), got 'tpu'",
        ),
        (["eval", "c", "--device", "meta"], "argument --device: expected .*, got 'meta'"),
        (["train", "digits", "--surrogate", "atan"], "unknown option --surrogate; there are .*--T"),
        (["train", "digits", "--epoch-count=2"], "unknown option --epoch-count=2; the nearest"),
        (["eval", "a", "b"], "unexpected argument 'b'"),
        (
            ["bench", "engine", "--cases", "a", "--thread-count", "2"],
            "unknown option --thread-count",
        ),
        (["--fast", "models"], "unknown option --fast; there are .*--version"),
        (["demo", "--threads", "two"], "expected a whole number from 1, got 'two'"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, monkeypatch, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(capsys, argv))
    assert not list(tmp_path.rglob("*.safetensors*")), "nothing was written"


def test_traceback_on_request(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "eval", str(tmp_path / "no.safetensors")])


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        ("safetensors", ["eval", "CHECKPOINT"]),
        ("sklearn", ["train", "digits", "--out", "o"]),
        ("sklearn", ["demo", "--out", "o"]),
        ("matplotlib", ["demo", "--out", "o"]),
        ("PIL", ["train", "PHOTOS", "--out", "o"]),
    ],
)
def test_a_missing_extra_is_named(capsys, monkeypatch, tmp_path, checkpoint, module, argv):
    monkeypatch.chdir(tmp_path)
    for name in [m for m in sys.modules if m == module or m.startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for i in range(5):
        (tmp_path / "photos" / "a" / f"{i}.png").write_bytes(b"")
    places = {"CHECKPOINT": checkpoint, "PHOTOS": str(tmp_path / "photos")}
    line = refused(capsys, [places.get(a, a) for a in argv])
    assert f"needs {module}, which cannot be imported" in line
    assert re.search(r"pip install stmixer-ops\[(train|files)\]", line)
    assert not (tmp_path / "o").exists()


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("stmixer_ops.cli.train.train", interrupt)
    assert main(["train", "digits", "--out", str(tmp_path)]) == 130
    assert f"stmixer train --resume --out {tmp_path}" in capsys.readouterr().err


def test_train_writes_its_files_and_resumes(run_folder, capsys):
    assert {"last.safetensors", "best.safetensors", "log.csv", "log.json"} <= {
        p.name for p in run_folder.iterdir()
    }
    out = ["--out", str(run_folder)]
    assert "exists; resume it" in refused(capsys, ["train", "digits", *SMALL, *out])
    assert main(["train", "--resume", *out]) == 0
    text = capsys.readouterr()
    assert "resumed after epoch 2 of 2" in text.err and "after 2 epochs" in text.out
    again = ["train", "digits", *SMALL, "--epochs", "2", "--resume", *out]
    assert main(again) == 0
    assert "epochs is 2 there, got 3" in refused(capsys, [*again, "--epochs", "3"])
    assert "leave out lr" in refused(capsys, ["train", "--resume", "--lr", "1", *out])


def test_every_field_of_the_recipe_is_an_option(tmp_path):
    out = tmp_path / "run"
    options = [
        "--img-size=8", "--model=stmixer_1_16_2", "--model-arg=mlp_ratio=2", "--T=2",
        "--reset=soft", "--no-sml", "--epochs=1", "--cooldown-epochs=1", "--warmup-epochs=0.5",
        "--batch-size=720", "--lr=0.001", "--warmup-lr=0.0001", "--min-lr=0", "--weight-decay=0",
        "--label-smoothing=0.1", "--mixup=0", "--cutmix=0", "--mixup-off-epoch=1",
        "--random-erasing=0", "--flip=0.1", "--crop-padding=2", "--no-amp", "--seed=3",
    ]  # fmt: skip
    assert main(["train", "digits", "--out", str(out), "--threads", "1", *options]) == 0
    config = load_checkpoint(out / "last.safetensors").config
    recipe = config["recipe"]
    for option in options:
        name, _, value = option.removeprefix("--").replace("-", "_").partition("=")
        if name == "model_arg":
            assert recipe["model_args"] == {"mlp_ratio": 2}
        elif not value:
            assert recipe[name.removeprefix("no_")] is False
        else:
            assert str(recipe[name]) in (value, value + ".0"), name
    assert config["neuron"]["reset"] == "soft" and config["epoch"] == 2


def test_eval_agrees_with_the_library(checkpoint, capsys):
    assert main(["eval", checkpoint, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    data = so.data.load_dataset("digits", img_size=8)
    model = load_checkpoint(checkpoint).build_model()
    expected = evaluate(model, data.test, data.mean, data.std)
    assert answer["count"] == 355 and answer["correct"] == expected.correct
    assert answer["top1"] == expected.top1
    assert main(["eval", checkpoint, "--confusion", "--T", "2"]) == 0
    text = capsys.readouterr().out
    assert "of 355 test images correct" in text and "rows: true class" in text


def test_eval_on_other_classes_is_refused(checkpoint, capsys, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "only").mkdir()
    for i in range(5):
        image.new("L", (8, 8)).save(tmp_path / "only" / f"{i}.png")
    line = refused(capsys, ["eval", checkpoint, "--data", "folder", "--root", str(tmp_path)])
    assert "expected 10 classes" in line and "got 1" in line


def test_info_adds_up(checkpoint, capsys):
    assert main(["info", checkpoint, "--json", "--images", "40"]) == 0
    answer = json.loads(capsys.readouterr().out)
    model = load_checkpoint(checkpoint).build_model()
    assert answer["parameters"] == sum(p.numel() for p in model.parameters())
    for total in ("macs", "sops", "spikes", "energy_pj"):
        assert answer[total] == pytest.approx(sum(layer[total] for layer in answer["layers"]))
    assert answer["energy_pj"] == pytest.approx(4.6 * answer["macs"] + 0.9 * answer["sops"])
    # The layers that see real numbers: first and protect convolution (4x3x3 over 8x8; 4x4x4 over
    # 2x2) and the head (32x10).
    assert answer["macs"] == 4 * 9 * 64 + 4 * 16 * 4 + 320
    data = so.data.load_dataset("digits", img_size=8)
    x = (data.test.images[:40].float() / 255 - data.mean[0]) / data.std[0]
    with so.record(model) as recorder:
        model(x)
    for layer in answer["layers"]:
        if layer["rate"] is not None:
            spikes = recorder.spikes[layer["path"]]
            assert layer["rate"] == pytest.approx(spikes.double().mean().item())
            assert layer["spikes"] == pytest.approx(int(spikes.sum()) / 40)


def test_info_of_a_named_model(capsys):
    assert main(["info", "stmixer_2_32_4.cifar10", "--T", "2", "--images", "2"]) == 0
    text = capsys.readouterr().out
    assert "3x32x32 to 10 classes, depth 2, width 32, 4 heads, 64 tokens, T=2" in text
    rates = [float(m) for m in re.findall(r"lif\d? .* (0\.\d{3})  ", text)]
    assert len(rates) == 14 and min(rates) > 0.005, "calibrated norms let every layer fire"
    total = float(re.search(r"total .* (0\.\d{3})  ", text)[1])
    assert min(rates) < total < max(rates), "the rate over all neurons"


def test_compile_and_run(checkpoint, tmp_path, capsys):
    pytest.importorskip("PIL.Image")
    engine = tmp_path / "m.stmx"
    assert main(["compile", checkpoint, "-o", str(engine), "--T", "3"]) == 0
    assert "T=3" in capsys.readouterr().out
    data = so.data.load_dataset("digits", img_size=8)
    data.test.pil(4).save(tmp_path / "digit.png")
    assert main(["run", str(engine), str(tmp_path / "digit.png"), "--top", "1"]) == 0
    text = capsys.readouterr().out
    model = load_checkpoint(checkpoint).build_model(T=3)
    x = (data.test.images[4:5].float() / 255 - data.mean[0]) / data.std[0]
    share = model(x).detach().softmax(1)
    assert f"digit.png: {int(share.argmax())} {100 * float(share.max()):.1f} %" in text
    with so.record(model) as recorder:
        model(x)
    spikes = sum(int(s.sum()) for s in recorder.spikes.values())
    assert re.search(rf" \({quantity(spikes)} spikes, \d+\.\d\d ms\)$", text, re.M)

    assert "digit.png" in refused(capsys, ["run", str(tmp_path / "digit.png"), "x"])
    (tmp_path / "broken.png").write_bytes(b"no image")
    line = refused(capsys, ["run", str(engine), str(tmp_path / "broken.png")])
    assert "broken.png: not a readable image" in line
    three = [str(tmp_path / name) for name in ("broken.png", "digit.png", "gone.png")]
    assert main(["run", str(engine), *three]) == 1
    out, error = capsys.readouterr()
    assert out.count("digit.png: ") == 1 and [
        name in line
        for name, line in zip(("broken.png", "gone.png"), error.splitlines(), strict=True)
    ] == [True, True]
    labels = tmp_path / "m.labels.json"
    labels.write_text("{}")
    assert "m.labels.json: expected classes" in refused(capsys, ["run", str(engine), "x"])
    labels.unlink()
    assert "stmixer compile writes both" in refused(capsys, ["run", str(engine), "x"])


def test_compile_into_a_missing_folder(checkpoint, tmp_path, capsys):
    target = str(tmp_path / "nowhere" / "m.stmx")
    assert "expected the folder" in refused(capsys, ["compile", checkpoint, "-o", target])
    options = ["--precision", "int8", "-o", str(tmp_path / "m.stmx"), "--report", target]
    assert "expected the folder" in refused(capsys, ["compile", checkpoint, *options])
    assert not list(tmp_path.iterdir())


def test_a_truncated_checkpoint(checkpoint, tmp_path, capsys):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(checkpoint).read_bytes()[:5000])
    for command in ("eval", "info", "compile"):
        assert "cut.safetensors: not a whole safetensors file" in refused(
            capsys, [command, str(cut)]
        )
    assert [p.name for p in tmp_path.iterdir()] == ["cut.safetensors"]


def test_models_lists_parameters(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"stmixer_4_384_16\.cifar10 +3x32x32 +10 +1 +8\.22 M", text)
    assert re.search(r"stmixer_8_768_16\.in1k +3x224x224 +1000 +1 +61\.2 M", text)


def test_backends(capsys):
    assert main(["backends"]) == 0
    text = capsys.readouterr().out
    assert "cpu" in text and "reference" in text


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of 20 pictures in two colours."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("own") / "photos"
    for name, colour in {"red": (200, 10, 10), "blue": (10, 10, 200)}.items():
        (root / name).mkdir(parents=True)
        for i in range(10):
            image.new("RGB", (60 + i, 50), colour).save(root / name / f"{i}.png")
    return root


@pytest.mark.trains
def test_own_photos_from_folder_to_answer(photos, tmp_path, capsys, monkeypatch):
    out, home = tmp_path / "out", tmp_path / "home"
    shutil.copytree(photos, home / "photos")
    monkeypatch.setenv("HOME", str(home))
    command = ["train", "~/photos", "--epochs", "2", "--threads", "1", "--out", str(out)]
    (home / "photos" / "red" / "3.png").write_bytes(b"")
    assert "1 of 20 images cannot be read" in refused(capsys, command)
    assert not out.exists()
    assert main([*command, "--skip-damaged"]) == 0
    shown = capsys.readouterr()
    assert "after 2 epochs" in shown.out and "left out: 1 of 20" in shown.err
    assert float(re.search(r"([\d.]+) M parameters", shown.err)[1]) < 1
    # All that follows knows where the pictures are, and which to leave out.
    last, engine = str(out / "last.safetensors"), str(out / "last.stmx")
    assert main(["train", "~/photos", "--resume", "--threads", "1", "--out", str(out)]) == 0
    assert main(["train", "--resume", "--threads", "1", "--out", str(out)]) == 0
    assert "img_size is 64 there, got 32" in refused(
        capsys, ["train", "~/photos", "--resume", "--img-size", "32", "--out", str(out)]
    )
    for command in (["eval", last], ["info", last, "--images", "2"], ["compile", last]):
        assert main(command) == 0
    assert main(["eval", engine]) == 0
    assert "test images of folder" in capsys.readouterr().out
    # Moved, it has to be named again.
    (home / "photos").rename(tmp_path / "moved")
    line = refused(capsys, ["eval", engine])
    assert f"was in {home / 'photos'}, which is not there any more; --root" in line
    assert "not there any more" in refused(capsys, ["train", "--resume", "--out", str(out)])
    assert main(["info", last]) == 0 and "random inputs" in capsys.readouterr().out
    moved = ["--root", str(tmp_path / "moved")]
    assert main(["train", "--resume", "--out", str(out), "--threads", "1", *moved]) == 0
    assert main(["eval", engine, *moved]) == 0


@pytest.mark.trains
def test_eval_compares_classes_by_name(checkpoint, photos, capsys, tmp_path):
    for i in range(10):
        shutil.copytree(photos / "red", tmp_path / f"class{i}")
    line = refused(capsys, ["eval", checkpoint, "--data", "folder", "--root", str(tmp_path)])
    assert "only in the model: 0, 1, 2, 3, 4; only in the data: class0, class1" in line
