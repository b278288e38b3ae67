"""Official checkpoints: formats, names, and refusals that leave the model alone."""

import argparse
import json
import logging
import sys

import numpy as np
import pytest
import torch
from support.paths import GOLDEN

import stmixer_ops as so


def official(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Configuration and official state dict of one golden file."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        config = json.loads(file["config"].item())
        prefix = "param."
        state = {
            k.removeprefix(prefix): torch.from_numpy(file[k]) for k in file if k.startswith(prefix)
        }
    return config, state


@pytest.fixture(scope="module")
def sml_state():
    return official("stmixer_T1_sml")[1]


@pytest.fixture(scope="module")
def spikformer_state():
    return official("spikformer_T2")[1]


def stmixer(**options) -> so.STMixer:
    return so.STMixer(**{"img_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 4} | options)


def spikformer(**options) -> so.Spikformer:
    return so.Spikformer(**{"embed_dim": 48, "depth": 2, "num_heads": 4} | options)


def assert_loaded(model, state) -> None:
    torch.testing.assert_close(model.head.weight.detach(), state["head.weight"], rtol=0, atol=0)
    stm = model.blocks[1].token_mixer.stm.weight
    for head in range(4):
        key = f"block.1.token_mix.attn.linear_mix.{head}.weight"
        assert torch.equal(stm[head], state[key])
    bn = model.patch_embed.main[3].bn
    assert torch.equal(bn.running_var, state["patch_embd.proj_conv.10.running_var"])


def test_surrogates_are_left_out_with_a_message(sml_state, caplog):
    model = stmixer(T=3, reset="soft")
    with caplog.at_level(logging.WARNING, logger="stmixer_ops"):
        assert so.load_official(model, sml_state) is model
    assert_loaded(model, sml_state)
    assert "tensors of surrogate modules" in caplog.text and "sml=True" in caplog.text
    assert (model.T, model.blocks[0].token_mixer.lif1.reset_mode) == (3, "soft")


def test_surrogates_are_loaded_where_they_exist(sml_state, caplog):
    model = so.load_official(stmixer(sml=True), sml_state)
    assert not caplog.text
    weight = sml_state["sml2.encoder.0.channel_mix.fc2.0.weight"]
    assert torch.equal(model.surrogates[1].blocks[0].fc4.weight, weight.squeeze(-1))


def test_a_model_with_surrogates_needs_them(sml_state):
    state = {k: v for k, v in sml_state.items() if not k.startswith("sml")}
    with pytest.raises(ValueError, match=r"missing surrogates\.0"):
        so.load_official(stmixer(sml=True), state)


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "ema", "module", "timm"])
def test_torch_files(tmp_path, sml_state, wrap):
    path = tmp_path / "checkpoint.pth.tar"
    stale = {k: torch.zeros_like(v) for k, v in sml_state.items()}
    content = {
        "bare": sml_state,
        "state_dict": {"state_dict": sml_state, "epoch": 3},
        "model": {"model": sml_state},
        "ema": {"state_dict": stale, "state_dict_ema": sml_state},
        "module": {"state_dict": {f"module.{k}": v for k, v in sml_state.items()}},
        "timm": {
            "epoch": 309,
            "arch": "stmixer",
            "state_dict": sml_state,
            "optimizer": {"param_groups": [{"lr": 1e-3}]},
            "args": argparse.Namespace(lr=5e-3, mean=(0.5, 0.5)),
            "metric": np.float64(95.5),
        },
    }[wrap]
    torch.save(content, path)
    assert_loaded(so.load_official(stmixer(), path), sml_state)
    assert_loaded(so.load_official(stmixer(), str(path)), sml_state)


def test_safetensors_files(tmp_path, spikformer_state):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(spikformer_state, path)
    model = so.load_official(spikformer(), path)
    key = "block.1.attn.proj_linear.weight"
    assert torch.equal(model.blocks[1].attn.proj.weight, spikformer_state[key])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        so.load_official(model, path)


def test_spikformer_with_convolutions(spikformer_state):
    """The imagenet and dvs variants spell 1x1 convolutions [O, C, 1] and have fewer biases."""
    state = {}
    for key, value in spikformer_state.items():
        if key.endswith(("q_linear.bias", "k_linear.bias", "v_linear.bias")):
            continue
        pointwise = "_linear.weight" in key
        state[key.replace("_linear", "_conv")] = value.unsqueeze(-1) if pointwise else value
    sizes = {"img_size": 32, "num_classes": 10, "downsample": 2, "T": 2}
    model = so.load_official(spikformer(variant="imagenet", **sizes), state)
    expected = spikformer_state["block.0.mlp.fc1_linear.weight"]
    assert torch.equal(model.blocks[0].mlp.fc1.weight, expected)


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.bias"), "missing head.bias"),
        (lambda s: s.update({"pos_embed": torch.zeros(2)}), "unknown keys.*pos_embed"),
        (lambda s: s.update({"head.bias": torch.zeros(100)}), r"head.bias is \[100\].*\[10\]"),
        (lambda s: s["head.bias"].fill_(float("nan")), "head.bias has non-finite"),
        (lambda s: s.pop("block.0.token_mix.attn.linear_mix.1.weight"), "heads of .* incomplete"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(sml_state, change, message):
    state = {k: v.clone() for k, v in sml_state.items()}
    change(state)
    model = stmixer(sml=True)
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        so.load_official(model, state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_other_sizes_are_refused(sml_state):
    for model in (stmixer(embed_dim=64), stmixer(depth=3), stmixer(num_heads=8)):
        before = snapshot(model)
        with pytest.raises(ValueError, match="does not fit this STMixer"):
            so.load_official(model, sml_state)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_other_family_is_refused(sml_state, spikformer_state):
    with pytest.raises(ValueError, match="unknown keys"):
        so.load_official(spikformer(), sml_state)
    with pytest.raises(ValueError, match="unknown keys"):
        so.load_official(stmixer(), spikformer_state)


def test_unreadable_files_are_named(tmp_path, sml_state):
    model = stmixer()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        so.load_official(model, tmp_path / "none.pth")
    path = tmp_path / "cut.pth"
    torch.save(sml_state, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"not a checkpoint\n" * 99):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cut\.pth is not a readable torch checkpoint"):
            so.load_official(model, path)


class Payload:
    def __reduce__(self):
        return (sys.setrecursionlimit, (12345,))


def test_nothing_in_a_file_is_executed(tmp_path, sml_state):
    path = tmp_path / "hostile.pth"
    torch.save({"state_dict": sml_state, "extra": Payload()}, path)
    limit = sys.getrecursionlimit()
    with pytest.raises(ValueError, match="not a readable torch checkpoint"):
        so.load_official(stmixer(), path)
    assert sys.getrecursionlimit() == limit


def test_wrong_kinds_are_named():
    with pytest.raises(TypeError, match="model must be a STMixer or a Spikformer"):
        so.load_official(torch.nn.Linear(2, 2), {})
    with pytest.raises(TypeError, match="source must be a path or a state dict"):
        so.load_official(stmixer(), 3)
    for empty in ({}, {"epoch": 3}, {"state_dict": {}}):
        with pytest.raises(ValueError, match="holds no state dict"):
            so.load_official(stmixer(), empty)
