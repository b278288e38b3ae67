"""``stmixer demo``: its comparison, its verdict, its files; trained far too briefly here."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
import torch

import stmixer_ops as so
from stmixer_ops.cli import demo, main
from stmixer_ops.cli._compare import compare, latency
from stmixer_ops.cli._table import energy, format_table, quantity

for module in ("safetensors", "sklearn", "matplotlib"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = so.create_model("stmixer_2_32_4", in_channels=1, img_size=8, T=2)
    for _ in range(20):
        model(torch.randn(16, 1, 8, 8))  # so that something fires
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Tampered:
    """PyTorch in the engine's clothes, with one spike flipped or other answers."""

    def __init__(self, model, flip=None, wrong=()):
        self.model, self.flip, self.wrong, self.start = model, flip, wrong, 0

    def run(self, x, record):
        with so.record(self.model) as recorder:
            logits = self.model(x).clone()
        spikes = {name: value.numpy().copy() for name, value in recorder.spikes.items()}
        for image in range(self.start, self.start + len(x)):
            if self.flip is not None and image == self.flip[1]:
                spikes[self.flip[0]][1, image - self.start].flat[5] ^= 1
            if image in self.wrong:
                logits[image - self.start] *= -1
        self.start += len(x)
        return SimpleNamespace(logits=logits, spikes=spikes)


def test_equal_spikes_are_counted(model, images):
    agreement = compare(model, Tampered(model), images, batch_size=4)
    assert sum(agreement.different.values()) == 0 and agreement.flips == {}
    assert agreement.answers == agreement.images == 10 and agreement.wrong == []
    assert agreement.compared["patch_embed.main.0.lif"] == 10 * 2 * 4 * 8 * 8
    with torch.inference_mode():
        assert agreement.engine_answers == model(images).argmax(1).tolist()


def test_a_flip_and_a_wrong_answer_are_found(model, images):
    name = "blocks.1.token_mixer.lif2"
    engine = Tampered(model, flip=(name, 6), wrong=(2, 6))
    agreement = compare(model, engine, images, batch_size=4)
    assert agreement.different == {n: int(n == name) for n in agreement.compared}
    assert agreement.flips == {6: name}
    assert agreement.answers == 8
    assert agreement.wrong == [2], "image 6 is excused by its flip"


def test_the_engine_itself_agrees(model, images):
    agreement = compare(model, so.Engine.compile(model), images, batch_size=4)
    assert agreement.wrong == [] and agreement.images == 10


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


def test_tables():
    table = format_table(["a", "count"], [["x", "1"], ["long", "23"]])
    assert table == "a     count\n───────────\nx         1\nlong     23"
    assert [quantity(v) for v in (0, 7, 1234, 5.6e6, 2e9)] == ["0", "7", "1.23 k", "5.6 M", "2 G"]
    assert [energy(v) for v in (5, 5e3, 5e6, 5e9)] == ["5 pJ", "5 nJ", "5 µJ", "5 mJ"]
