"""``stmixer compile --precision int8``, its report, and ``stmixer eval`` of engine files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import stmixer_ops as so
from stmixer_ops.cli import main
from stmixer_ops.data import spread_images
from stmixer_ops.engine.disagreement import disagreement
from stmixer_ops.train import load_checkpoint

pytest.importorskip("safetensors")
pytest.importorskip("sklearn")

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("int8") / "digits"
    options = ["--img-size", "8", "--model", "stmixer_2_32_4", "--threads", "1"]
    assert main(["train", "digits", *options, "--epochs", "2", "--out", str(out)]) == 0
    return str(out / "last.safetensors")


@pytest.fixture(scope="module")
def compiled(checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "m.stmx"
    layers = "blocks.1.token_mixer.stm,patch_embed.main.0.conv"
    options = ["--precision", "int8", "--calibrate", "100", "--int16-layers", layers]
    assert main(["compile", checkpoint, "-o", str(path), *options]) == 0
    return path


def test_the_report_says_what_the_engines_do(checkpoint, compiled):
    report = json.loads(compiled.with_suffix(".report.json").read_text())
    data = so.data.load_dataset("digits", img_size=8)

    def prepared(images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 255 - data.mean[0]) / data.std[0]

    model = load_checkpoint(checkpoint).build_model()
    exact, engine = so.Engine.compile(model), so.Engine.load(compiled)
    labels, x = data.test.labels, prepared(data.test.images)
    fp32, int8 = (e(x).argmax(1) == labels for e in (exact, engine))
    top1 = report["top1"]
    assert (top1["images"], top1["fp32"], top1["int8"]) == (355, int(fp32.sum()), int(int8.sum()))
    assert top1["only_fp32"] == int((fp32 & ~int8).sum())
    assert top1["only_int8"] == int((int8 & ~fp32).sum())
    difference = 100 * (top1["int8"] - top1["fp32"]) / 355
    assert top1["difference_points"] == pytest.approx(difference)
    low, high = top1["interval_points"]
    assert low < high

    assert report["file_bytes"] == compiled.stat().st_size
    assert report["calibration_images"] == 100 and report["compared_images"] == 256
    assert {"blocks.1.token_mixer.stm", "patch_embed.main.0.conv"} <= set(report["int16_layers"])
    assert "head" not in report["int16_layers"]
    shown = prepared(spread_images(data.test, 256)).numpy()
    found = disagreement(exact, engine, shown)
    assert report["disagreement"] == {name: vars(d) for name, d in found.items()}
    samples = prepared(spread_images(data.train, 100))
    again = so.Engine.compile(
        model, "int8", samples, int16_layers=report["int16_layers"], mean=data.mean, std=data.std
    )
    assert engine.mean == pytest.approx(data.mean) and engine.std == pytest.approx(data.std)
    assert again.graph.description() == engine.graph.description()


def test_the_report_is_printed(checkpoint, tmp_path, capsys):
    path, report = tmp_path / "m.stmx", tmp_path / "other.json"
    argv = ["compile", checkpoint, "-o", str(path), "--precision", "int8", "--report", str(report)]
    assert main(argv) == 0
    text = capsys.readouterr().out
    content = json.loads(report.read_text())
    assert not path.with_suffix(".report.json").exists()
    assert f"{path}: Engine(" in text and "int8" in text
    assert "calibrated on 256 training images of digits" in text
    for name, shares in content["disagreement"].items():
        row = next(line for line in text.splitlines() if line.startswith(name))
        assert row.split()[1::2] == [f"{100 * shares[key]:.3f}" for key in ("local", "free")]
    top1 = content["top1"]
    assert f"fp32 {100 * top1['fp32'] / 355:.2f} %, int8 {100 * top1['int8'] / 355:.2f} %" in text
    assert f"(only fp32 right: {top1['only_fp32']}, only int8: {top1['only_int8']})" in text
    assert (
        f"layers of 16 bits beside the head: {', '.join(content['int16_layers']) or 'none'}" in text
    )


def test_without_data_nothing_is_calibrated(checkpoint, tmp_path, capsys):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    config["data"]["name"] = "fashion-mnist"
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, metadata | {"config": json.dumps(config)})
    assert main(["compile", str(other), "--precision", "int8"]) == 0
    text = capsys.readouterr().out
    assert "no data set (--root names its folder): not calibrated" in text
    report = json.loads((tmp_path / "other.report.json").read_text())
    size = (tmp_path / "other.stmx").stat().st_size
    assert report == {"calibration_images": 0, "int16_layers": [], "file_bytes": size}


def test_unknown_layers_are_refused(checkpoint, tmp_path, capsys):
    argv = ["compile", checkpoint, "-o", str(tmp_path / "m.stmx"), "--precision", "int8"]
    assert main([*argv, "--int16-layers", "blocks.7"]) == 2
    assert "int16_layers must name layers of the network" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_eval_of_an_engine_file(compiled, capsys):
    assert main(["eval", str(compiled), "--json", "--batch-size", "100"]) == 0
    answer = json.loads(capsys.readouterr().out)
    report = json.loads(compiled.with_suffix(".report.json").read_text())
    assert (answer["count"], answer["correct"]) == (355, report["top1"]["int8"])
    assert np.sum(answer["confusion"]) == 355
    assert main(["eval", str(compiled), "--T", "2"]) == 2
    assert "leave out --T and --device" in capsys.readouterr().err


def test_run_of_an_int8_file(compiled, tmp_path, capsys):
    pytest.importorskip("PIL.Image")
    data = so.data.load_dataset("digits", img_size=8)
    data.test.pil(4).save(tmp_path / "digit.png")
    assert main(["run", str(compiled), str(tmp_path / "digit.png"), "--top", "1"]) == 0
    x = (data.test.images[4:5].float() / 255 - data.mean[0]) / data.std[0]
    share = so.Engine.load(compiled)(x).softmax(1)
    text = capsys.readouterr().out
    assert f"digit.png: {int(share.argmax())} {100 * float(share.max()):.1f} %" in text
