"""Engine against PyTorch: equal, with a flipped spike, with another answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import stmixer_ops as so
from stmixer_ops.measure.compare import compare


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
