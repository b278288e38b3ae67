"""First weights from another training: other classes, another resolution, nothing in silence."""

import copy
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import stmixer_ops as so
from stmixer_ops.models.resample import resample_token_matrices


def small(**options) -> so.STMixer:
    sizes = {"img_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return so.STMixer(**sizes | options)


# -- Token matrices -------------------------------------------------------------------------------


def cubic(x: float, a: float = -0.5) -> float:
    """Keys' kernel."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resized(line: np.ndarray, size: int) -> np.ndarray:
    """One axis, by the definition: the kernel widens where there are fewer pixels than before."""
    scale = len(line) / size
    out = np.zeros(size)
    for i in range(size):
        centre = (i + 0.5) * scale
        weights = [cubic((j + 0.5 - centre) / max(scale, 1.0)) for j in range(len(line))]
        out[i] = np.dot(weights, line) / sum(weights)
    return out


def image_resized(image: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    rows = np.stack([resized(column, grid[0]) for column in image.T], 1)
    return np.stack([resized(row, grid[1]) for row in rows])


@pytest.mark.parametrize(
    ("old", "new"), [((2, 3), (4, 5)), ((4, 4), (2, 2)), ((3, 2), (3, 4)), ((1, 1), (3, 3))]
)
def test_small_cases_by_brute_force(old, new):
    """Current of each new token for a spike at each: resample, mix, resample, one by one."""
    torch.manual_seed(0)
    n, m = old[0] * old[1], new[0] * new[1]
    weight = torch.randn(2, n, n, dtype=torch.float64)
    got = resample_token_matrices(weight, old, new)
    assert got.shape == (2, m, m)
    for head in range(2):
        for token in range(m):
            spikes = np.eye(m)[token].reshape(new)
            currents = weight[head].numpy() @ image_resized(spikes, old).ravel()
            expected = image_resized(currents.reshape(old), new).ravel()
            np.testing.assert_allclose(got[head, :, token], expected, atol=1e-12)


@pytest.mark.parametrize("new", [(4, 4), (3, 3), (8, 8), (2, 9), (16, 16)])
def test_currents_keep_their_size(new):
    torch.manual_seed(0)
    weight = torch.randn(3, 16, 16, dtype=torch.float64)
    got = resample_token_matrices(weight, (4, 4), new)
    sums = F.interpolate(
        weight.sum(2).unflatten(1, (4, 4))[None], new, mode="bicubic", antialias=True
    )
    torch.testing.assert_close(got.sum(2), sums[0].flatten(1))
    # All of one weight: where all tokens fire alike, each gets what it got before.
    constant = resample_token_matrices(torch.full((1, 16, 16), 0.25), (4, 4), new)
    torch.testing.assert_close(constant.sum(2), torch.full((1, new[0] * new[1]), 4.0))


def test_an_equal_grid_changes_nothing():
    weight = torch.randn(2, 6, 6)
    assert resample_token_matrices(weight, (2, 3), (2, 3)) is weight
    there = resample_token_matrices(weight, (2, 3), (3, 2))
    assert there.shape == weight.shape and not torch.equal(there, weight)


# -- Another input size ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, (16, 24)])
def test_set_input_size(size):
    model = small(sml=True).eval()
    x = torch.rand(2, 3, 16, 16)
    before = model(x)
    weight = model.blocks[1].token_mixer.stm.weight.detach().clone()
    model.set_input_size(size)
    height, width = (size, size) if isinstance(size, int) else size
    assert (model.img_size, model.grid_size) == ((height, width), (height // 4, width // 4))
    assert model.default_cfg["input_size"] == (3, height, width)
    logits, aux = model(torch.rand(2, 3, height, width), return_aux=True)
    assert [y.shape for y in (logits, *aux)] == [(2, 10)] * 2
    stm = model.blocks[1].token_mixer.stm
    assert torch.equal(stm.weight, resample_token_matrices(weight, (4, 4), model.grid_size))
    assert stm.weight.requires_grad and isinstance(stm.weight, nn.Parameter)
    assert so.Engine.compile(model)(torch.rand(1, 3, height, width)).shape == (1, 10)
    with pytest.raises(ValueError, match="multiple of 4"):
        model.set_input_size(18)
    assert model.img_size == (height, width)
    same = small().eval()
    weights = [p.detach().clone() for p in same.parameters()]
    same.set_input_size(16)
    assert all(torch.equal(a, b) for a, b in zip(weights, same.parameters(), strict=True))
    assert before.shape == (2, 10)


def test_set_input_size_of_others():
    model = so.Spikformer(16, embed_dim=16, depth=1, num_heads=2, T=1)
    model.set_input_size(32)
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    model = small()
    torch.nn.utils.parametrizations.weight_norm(model.blocks[1].token_mixer.stm)
    with pytest.raises(ValueError, match=r"blocks\.1\.token_mixer\.stm\.weight: it is no plain"):
        model.set_input_size(32)
    assert model.img_size == (16, 16)


# -- Checkpoints ----------------------------------------------------------------------------------


def test_other_classes_and_resolution(tmp_path, caplog):
    old, new = small(num_classes=10, sml=True), small(num_classes=3, img_size=32, sml=True)
    torch.save({"state_dict": old.state_dict()}, tmp_path / "c.pth")
    initial = copy.deepcopy(new.state_dict())
    with caplog.at_level(logging.WARNING, logger="stmixer_ops"):
        assert so.load_pretrained(new, tmp_path / "c.pth") is new
    own, given = new.state_dict(), old.state_dict()
    heads = {k for k in own if k.rpartition(".")[0].endswith("head")}
    matrices = {k for k in own if k.endswith("stm.weight")}
    assert len(heads) == 4 and len(matrices) == 3
    for key, value in own.items():
        if key in heads:
            assert torch.equal(value, initial[key]), key
        elif key in matrices:
            expected = resample_token_matrices(given[key], (4, 4), (8, 8))
            assert torch.equal(value, expected), key
        else:
            assert torch.equal(value, given[key]), key
    readout, resampled = caplog.messages
    assert "left out the readout of 10 classes; the model's, of 3, keeps its initial" in readout
    assert "resampled from 4x4 to 8x8 tokens" in resampled and "and 2 more" in resampled


def test_models_without_readout_or_surrogates(caplog):
    state = small(sml=True).state_dict()
    model = so.load_pretrained(small(num_classes=0), state)
    assert torch.equal(
        model.blocks[0].token_mixer.fc1.weight, state["blocks.0.token_mixer.fc1.weight"]
    )
    assert "left out the readout of 10 classes; the model has none" in caplog.messages[0]
    assert "tensors of surrogate modules" in caplog.messages[1]
    caplog.clear()
    so.load_pretrained(small(sml=True), small().state_dict())
    assert "has no surrogate modules; the model's keep" in caplog.text


def test_grids_that_are_no_square():
    old = small(img_size=(16, 24))
    with pytest.raises(
        ValueError, match=r"stm.weight is \[2, 24, 24\], the model's is \[2, 16, 16"
    ):
        so.load_pretrained(small(), old.state_dict())
    model = so.load_pretrained(small(), old.state_dict(), grid=(4, 6))
    got = model.blocks[0].token_mixer.stm.weight
    expected = old.blocks[0].token_mixer.stm.weight.detach()
    assert torch.equal(got, resample_token_matrices(expected, (4, 6), (4, 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.0.channel_mlp.fc1.weight"), "missing blocks.0.channel_mlp.fc1"),
        (lambda s: s.update(extra=torch.ones(1)), "unknown keys.*extra"),
        (lambda s: s.update({"head.weight": torch.ones(3, 8)}), r"head.weight is \[3, 8\].*10, 16"),
        (lambda s: s.update({"blocks.0.token_mixer.stm.weight": torch.ones(4, 64, 64)}),
         r"stm.weight is \[4, 16, 16\], the model's is \[2, 16, 16\]"),
        (lambda s: s["blocks.1.token_mixer.bn1.bias"].fill_(float("inf")), "non-finite"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_changes_nothing(change, message):
    state = copy.deepcopy(small().state_dict())
    change(state)
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        so.load_pretrained(model, state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_own_networks_of_our_blocks():
    def make(tokens):
        return nn.Sequential(nn.Conv2d(3, 16, 1), so.STMBlock(16, tokens, 2))

    old, new = make(16), make(64)
    so.load_pretrained(new, nn.DataParallel(old).state_dict())
    expected = resample_token_matrices(old[1].token_mixer.stm.weight.detach(), (4, 4), (8, 8))
    assert torch.equal(new[1].token_mixer.stm.weight, expected)
    with pytest.raises(ValueError, match="does not fit this Sequential: missing 0.bias"):
        so.load_pretrained(make(16), {k: v for k, v in old.state_dict().items() if k != "0.bias"})
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        so.load_pretrained("model", {})
