"""Files as training scripts write them: what is found in them, and what they cannot make us run."""

import argparse
import datetime
import logging
import pathlib
import types

import numpy as np
import pytest
import torch
from models.test_official import assert_loaded, official, spikformer, stmixer

import stmixer_ops as so


@pytest.fixture(scope="module")
def state():
    return official("stmixer_T1_sml")[1]


def stale(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


STEPS = {"n_averaged": torch.tensor(3)}
OTHERS = {"criterion.weight": torch.ones(3)}
WRAPPERS = {
    "compiled": lambda s: under("_orig_mod.", s),
    "DDP of compiled": lambda s: under("module._orig_mod.", s),
    "compiled DDP": lambda s: under("_orig_mod.module.", s),
    "compiled blocks": lambda s: {k.replace("block.1.", "block.1._orig_mod."): v
                                  for k, v in s.items()},
    "FSDP": lambda s: under("_fsdp_wrapped_module.", s),
    "AveragedModel": lambda s: STEPS | under("module.", s),
    "Lightning": lambda s: {"state_dict": under("model.", s) | OTHERS, "epoch": 3},
    "Lightning, other name": lambda s: {"state_dict": under("net.student.", s)},
    "Lightning with an average": lambda s: {
        "state_dict": under("model.", stale(s)) | under("ema_model.module.", s) | STEPS},
    "timm's average": lambda s: {"state_dict": stale(s), "state_dict_ema": s},
    "DeiT's average": lambda s: {"model": stale(s), "model_ema": under("module.", s)},
    "ema": lambda s: {"model": stale(s), "ema": {"decay": 0.999, "module": s}},
    "numbers in ema": lambda s: {"model": s, "ema": {"decay": torch.tensor(0.9)}},
    "no average in ema": lambda s: {"model": s, "ema": {"decay": 0.999}},
    "DeepSpeed": lambda s: {"module": s, "global_steps": 7, "step": torch.tensor(3)},
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(wrapper, state, tmp_path):
    content = WRAPPERS[wrapper](state)
    assert_loaded(so.load_official(stmixer(), content), state)
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path)
    assert_loaded(so.load_pretrained(stmixer(), path), state)


@pytest.mark.parametrize("wrapper", ["compiled", "AveragedModel", "Lightning with an average"])
def test_our_own_names_and_safetensors_too(wrapper, state, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    ours = so.load_official(stmixer(sml=True), state).state_dict()
    content = WRAPPERS[wrapper](ours)
    content = content.get("state_dict", content)
    safetensors.save_file(content, tmp_path / "model.safetensors")
    model = so.load_pretrained(stmixer(sml=True), tmp_path / "model.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours[key]), key


def test_wrapped_models_are_loaded_inside(state):
    model = stmixer()
    for wrapped in (torch.compile(model, backend="eager"), torch.nn.DataParallel(model)):
        model.head.weight.data.zero_()
        assert so.load_official(wrapped, state) is wrapped
        assert_loaded(model, state)


def test_what_belongs_to_something_else_is_said(state, caplog):
    model = stmixer(sml=True)
    with caplog.at_level(logging.WARNING, logger="stmixer_ops"):
        so.load_official(model, {"state_dict": under("model.", state) | OTHERS})
    assert caplog.messages == ["the state dict: took model.*; left out criterion.weight"]


BESIDE = {
    "paths": argparse.Namespace(data=pathlib.Path("/x"), out=pathlib.PurePosixPath("y")),
    "namespace": types.SimpleNamespace(lr=0.1),
    "arrays": {t: np.zeros((2, 3), t) for t in "?bHiqefdFU"},
    "scalars": [np.float64(1), np.int64(2), np.bool_(True)],
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_data_beside_the_weights(what, zipped, state, tmp_path):
    path = tmp_path / "c.pth"
    content = {"state_dict": state, "args": BESIDE[what]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_loaded(so.load_official(stmixer(), path), state)


def test_paths_of_another_system(state, tmp_path):
    """A file from Windows, or from Python 3.13, where pathlib has moved."""
    path = tmp_path / "c.pth"
    content = {"state_dict": state, "data": pathlib.Path("/x")}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    for name in (b"pathlib\nWindowsPath", b"pathlib._local\nPosixPath"):
        there = path.read_bytes()
        assert b"pathlib\nPosixPath" in there
        other = tmp_path / "other.pth"
        other.write_bytes(there.replace(b"pathlib\nPosixPath", name))
        assert_loaded(so.load_official(stmixer(), other), state)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_not_data_is_named_in_one_line(zipped, state, tmp_path):
    path = tmp_path / "c.pth"
    content = {"state_dict": state, "when": datetime.date(2024, 1, 1), "net": torch.nn.ReLU()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="not a readable torch checkpoint") as caught:
        so.load_official(stmixer(), path)
    message = str(caught.value)
    assert "datetime.date" in message and "state_dict() alone" in message
    assert "\x1b" not in message and "\n" not in message
    if zipped:  # torch lists all of them
        assert "torch.nn.modules.activation.ReLU" in message


@pytest.mark.parametrize("content", [b"", b"not a checkpoint\n" * 9, b"\x80\x02garbage", b"PK\3\4"])
def test_what_is_no_checkpoint_is_said_in_one_line(content, tmp_path):
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable torch checkpoint: .") as caught:
        so.load_official(stmixer(), path)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_off_checkpoint_is_said_in_one_line(share, state, tmp_path):
    path = tmp_path / "c.pth"
    torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"c\.pth is not a readable torch checkpoint: .") as caught:
        so.load_official(stmixer(), path)
    assert "\n" not in str(caught.value)


def test_folders_are_told_from_files(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"is a folder; give the file in it \(model.safetensors\)"):
        so.load_official(stmixer(), tmp_path)


def test_names_decide_not_shapes(state):
    """Another family's weights are not taken because a few of them have the same name."""
    with pytest.raises(ValueError, match="unknown keys"):
        so.load_official(spikformer(), under("model.", state))
