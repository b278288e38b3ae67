"""Checkpoints: exact, atomic, and refused with a reason when they are not what they should be."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stmixer_ops as so
from stmixer_ops._files import write_atomically
from stmixer_ops.models.resample import resample_token_matrices
from stmixer_ops.train import load_checkpoint, save_checkpoint
from stmixer_ops.train.checkpoint import load_first_weights

safetensors = pytest.importorskip("safetensors.torch")

SIZES = {"num_classes": 3, "img_size": 8, "in_channels": 1, "T": 2, "reset": "soft", "sml": True}
CONFIG = {
    "model": {"name": "stmixer_2_16_4", "kwargs": SIZES},
    "data": {
        "name": "digits", "classes": ["a", "b", "c"], "mean": [0.5], "std": [0.5], "img_size": 8
    },
}  # fmt: skip


def small_model(**changes):
    torch.manual_seed(0)
    return so.create_model("stmixer_2_16_4", **{**SIZES, **changes})


@pytest.fixture(scope="module")
def trained():
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        logits, aux = model(torch.randn(4, 1, 8, 8), return_aux=True)
        (logits.square().mean() + sum(a.square().mean() for a in aux)).backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, trained[0], CONFIG, trained[1])
    return path


def test_weights_buffers_and_optimiser_come_back_bit_for_bit(trained, saved):
    model, optimizer = trained
    checkpoint = load_checkpoint(saved)
    assert checkpoint.config == CONFIG
    again = checkpoint.build_model(surrogates=True)
    assert not again.training and again.reset_mode == "soft" and again.T == 2
    for (key, a), (other, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert key == other and a.dtype == b.dtype and torch.equal(a, b), key
    fresh = torch.optim.AdamW(again.parameters(), lr=1e-2)
    checkpoint.restore_optimizer(fresh, again)
    before, after = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert before.keys() == after.keys()
    for i in before:
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(before[i][name], after[i][name])


def test_for_inference_the_surrogates_are_left_out_and_t_can_change(trained, saved):
    model = load_checkpoint(saved).build_model(T=1)
    assert len(model.surrogates) == 0 and model.T == 1
    x = torch.randn(2, 1, 8, 8)
    reference = small_model(T=1)
    reference.load_state_dict(trained[0].state_dict())
    assert torch.equal(model(x), reference.eval()(x))


@given(share=st.floats(0, 1, exclude_max=True))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_truncated_file_is_refused_by_name(saved, share):
    content = saved.read_bytes()
    cut = saved.with_name("cut.safetensors")
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a whole safetensors file"):
        load_checkpoint(cut)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found no file"):
        load_checkpoint(path)
    safetensors.save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"expected a checkpoint of format .*got .* format None"):
        load_checkpoint(path)
    metadata = {"format": "stmixer_ops.checkpoint/1", "config": "{"}
    safetensors.save_file({"model.w": torch.zeros(2)}, path, metadata)
    with pytest.raises(ValueError, match="configuration inside is not JSON"):
        load_checkpoint(path)
    metadata["config"] = json.dumps({"model": {"name": "stmixer_2_16_4"}})
    safetensors.save_file({"model.w": torch.zeros(2)}, path, metadata)
    with pytest.raises(ValueError, match="to have model with name, kwargs"):
        load_checkpoint(path)
    metadata["config"] = json.dumps(CONFIG)
    safetensors.save_file({"w": torch.zeros(2)}, path, metadata)
    with pytest.raises(ValueError, match=r"tensors model\.\* and optimizer\.\*, got 'w'"):
        load_checkpoint(path)


def test_non_finite_weights_are_refused(trained, tmp_path):
    model = small_model()
    with torch.no_grad():
        model.blocks[1].token_mixer.stm.weight[0, 0, 0] = float("nan")
    save_checkpoint(tmp_path / "nan.safetensors", model, CONFIG)
    with pytest.raises(ValueError, match=r"blocks\.1\.token_mixer\.stm\.weight has NaN"):
        load_checkpoint(tmp_path / "nan.safetensors")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 4}, r"head\.weight has shape \[3, 16\], expected \[4, 16\]"),
        ({"depth": 3}, r"blocks\.2\..* is missing"),
        ({"depth": 1}, r"blocks\.1\..* is unknown to it"),
    ],
)
def test_weights_of_another_model_are_refused(saved, kwargs, message):
    with pytest.raises(ValueError, match="does not fit the model: " + message):
        load_checkpoint(saved).build_model(**kwargs)


def test_optimiser_state_of_another_model_is_refused(saved):
    checkpoint = load_checkpoint(saved)
    checkpoint.optimizer_state.pop("head.bias.exp_avg")
    checkpoint.optimizer_state.pop("head.bias.exp_avg_sq")
    checkpoint.optimizer_state.pop("head.bias.step")
    model = checkpoint.build_model(surrogates=True)
    with pytest.raises(ValueError, match=r"has no optimiser state of head\.bias"):
        checkpoint.restore_optimizer(torch.optim.AdamW(model.parameters()), model)


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(saved, trained, monkeypatch, moment):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    if moment == "replace":
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(saved, small_model(), CONFIG)
    else:

        def half(path):
            path.write_bytes(b"half")
            fail()

        with pytest.raises(OSError, match="disk full"):
            write_atomically(saved, half)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_wrapped_models_are_written_as_what_is_inside(trained, saved, tmp_path):
    model, optimizer = trained
    wrapped = torch.nn.DataParallel(torch.compile(model, backend="eager"))
    save_checkpoint(tmp_path / "w.safetensors", wrapped, CONFIG, optimizer)
    written, plain = (safetensors.load_file(p) for p in (tmp_path / "w.safetensors", saved))
    assert written.keys() == plain.keys()
    assert all(torch.equal(value, plain[key]) for key, value in written.items())


def test_files_with_wrappers_in_their_names_are_read(trained, saved, tmp_path):
    """As an earlier version wrote them."""
    model, optimizer = trained
    tensors = safetensors.load_file(saved)
    renamed = {key.replace(".", "._orig_mod.module.", 1): value for key, value in tensors.items()}
    path = tmp_path / "w.safetensors"
    metadata = {"format": "stmixer_ops.checkpoint/1", "config": json.dumps(CONFIG)}
    safetensors.save_file(renamed, path, metadata)
    checkpoint = load_checkpoint(path)
    again = checkpoint.build_model(surrogates=True)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    restored = torch.optim.AdamW(again.parameters(), lr=1e-2)
    checkpoint.restore_optimizer(restored, again)
    first, mine = next(again.parameters()), next(model.parameters())
    assert torch.equal(restored.state[first]["exp_avg"], optimizer.state[mine]["exp_avg"])


def test_first_weights_for_other_classes_and_sizes(saved, trained, tmp_path):
    model = small_model(img_size=16, num_classes=5, sml=False)
    head = model.head.weight.detach().clone()
    notes = load_first_weights(model, saved, "vwxyz")
    assert torch.equal(model.head.weight, head)
    source = trained[0].blocks[1].token_mixer
    assert torch.equal(model.blocks[1].token_mixer.fc1.weight, source.fc1.weight)
    expected = resample_token_matrices(source.stm.weight.detach(), (2, 2), (4, 4))
    assert torch.equal(model.blocks[1].token_mixer.stm.weight, expected)
    said = ["its classes are a, b, c, here v, w, x, y, z", "left out the readout of 3 classes",
            "tensors of surrogate modules", "resampled from 2x2 to 4x4"]  # fmt: skip
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))
    # As many classes of other names are other classes; those of the same names are not.
    model = small_model()
    torch.nn.init.zeros_(model.head.weight)
    assert len(load_first_weights(model, saved, "xyz")) == 2 and not model.head.weight.any()
    assert load_first_weights(model, saved, "abc") == []
    assert torch.equal(model.head.weight, trained[0].head.weight)


def test_first_weights_from_someone_elses_file(trained, tmp_path):
    model = small_model(num_classes=2)
    state = {f"module.{key}": value for key, value in trained[0].state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c.pth")
    (note,) = load_first_weights(model, tmp_path / "c.pth", "ab")
    assert "left out the readout of 3 classes" in note
    expected = trained[0].blocks[0].channel_mlp.fc1.weight
    assert torch.equal(model.blocks[0].channel_mlp.fc1.weight, expected)


def test_numpys_numbers_in_the_configuration(trained, tmp_path):
    kwargs = {**SIZES, "num_classes": np.int64(3), "threshold": np.float32(1)}
    config = {**CONFIG, "model": {"name": "stmixer_2_16_4", "kwargs": kwargs}}
    save_checkpoint(tmp_path / "n.safetensors", trained[0], config)
    assert load_checkpoint(tmp_path / "n.safetensors").build_model().num_classes == 3
