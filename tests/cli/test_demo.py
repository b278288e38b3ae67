"""``stmixer demo``: its verdict and its files; trained far too briefly here."""

from __future__ import annotations

import functools
import json

import pytest

import stmixer_ops as so
from stmixer_ops.cli import demo, main
from stmixer_ops.measure.timing import latency

for module in ("safetensors", "sklearn", "matplotlib"):
    pytest.importorskip(module)


@pytest.mark.trains
def test_the_whole_demo(tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")

    def brief(quick, seed):
        first = so.train.get_recipe("digits", model="stmixer_2_32_4", epochs=1, warmup_epochs=0)
        return {1: first, 4: first.replace(T=4)} if quick else {1: first}

    monkeypatch.setattr(demo, "recipes", brief)
    monkeypatch.setattr(demo, "latency", functools.partial(latency, calls=2, seconds=0))
    out = tmp_path / "demo"
    arguments = ["demo", "--out", str(out)]
    assert main([*arguments, "--quick"]) == 0
    text = capsys.readouterr().out
    for expected in ("linear baseline", "STMixer, T=1", "STMixer, T=4", "of 355 images", "total:"):
        assert expected in text
    with image.open(out / "demo.png") as picture:
        assert picture.size[0] > 1000 and picture.size[1] > 900
        assert len(picture.convert("RGB").getcolors(1 << 22)) > 200, "not blank"
    results = json.loads((out / "results.json").read_text())
    assert results["linear_top1"] > 0.9
    assert [network["T"] for network in results["networks"]] == [1, 4]
    for network in results["networks"]:
        assert network["torch_ms"] > 0 and network["engine_ms"] > 0
        energy_pj = 4.6 * network["macs_per_image"] + 0.9 * network["sops_per_image"]
        assert network["energy_pj_per_image"] == pytest.approx(energy_pj)
        engine = so.Engine.load(out / f"t{network['T']}" / f"digits_t{network['T']}.stmx")
        assert engine.steps == network["T"]
    # Again into the same folder, and this time the accuracy counts.
    assert main(arguments) == 1
    assert "FAILED: T=1: " in capsys.readouterr().out


def test_recipes_of_the_demo():
    full, quick = demo.recipes(False, 3), demo.recipes(True, 3)
    assert list(full) == list(quick) == [1, 4]
    assert all(recipe.sml and recipe.seed == 3 for recipe in full.values())
    assert all(quick[T].epochs < full[T].epochs for T in full)
