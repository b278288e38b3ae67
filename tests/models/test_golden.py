"""Exactness: the official code's spikes, logits, losses and gradients, in float64 and float32."""

import contextlib
import copy
import json
import os
from pathlib import Path

from support.paths import GOLDEN, SHARED
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import stmixer_ops as so
from stmixer_ops.models.official import spikformer_name, stmixer_name, translate

FULL = Path(os.environ.get("STMIXER_GOLDEN", SHARED / "golden"))
NAMES = [
    "spikformer_T2",
    "stmixer_T1_hard",
    "stmixer_T1_sml",
    "stmixer_T2_hard",
    "stmixer_T4_hard",
    "stmixer_T4_soft",
    "stmixer_dvs_T3",
]


class Golden:
    """One file: its configuration, tensors, and the model it was made with."""

    def __init__(self, name: str) -> None:
        fixture, full = GOLDEN / f"{name}.npz", FULL / f"{name}.safetensors"
        if full.is_file():
            safetensors = pytest.importorskip("safetensors")
            with safetensors.safe_open(full, "pt") as file:
                self.config = json.loads(file.metadata()["config"])
                self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        elif fixture.is_file():
            with np.load(fixture) as file:
                self.config = json.loads(file["config"].item())
                self.tensors = {k: torch.from_numpy(file[k]) for k in file if k != "config"}
        else:
            pytest.skip(f"{name} is not among the fixtures and {FULL} is not there")
        self.spikformer = self.config["family"] == "spikformer"

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """``<prefix>.<key>`` tensors by key."""
        start = prefix + "."
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}

    def model(self, **options) -> torch.nn.Module:
        c = self.config
        sizes = {
            "img_size": c["img_size"],
            "num_classes": c["classes"],
            "embed_dim": c["dim"],
            "depth": c["depth"],
            "num_heads": c["heads"],
            "mlp_ratio": c["mlp_ratio"],
            "T": c["T"],
            "batch_first": True,
        }
        if self.spikformer:
            model = so.Spikformer(**sizes, variant=c["variant"], **options)
        else:
            sizes |= {k: c[k] for k in ("in_channels", "downsample", "reset", "sml")}
            model = so.STMixer(**sizes | options)
        return so.load_official(model, self.part("param"))

    def spikes(self) -> list[torch.Tensor]:
        """In order of execution, ``[T, B, C, ...]``."""
        found = self.part("spikes_eval")
        spikes = [found[str(i)] for i in range(len(found))]
        spikes = [s.reshape(self.config["T"], -1, *s.shape[-self._dims(s) :]) for s in spikes]
        if self.spikformer:  # tokens before channels in the official code
            spikes = [s.transpose(2, 3) if s.dim() == 4 else s for s in spikes]
        return spikes

    def _dims(self, s: torch.Tensor) -> int:
        return s.dim() - (2 if self.spikformer else 1)


@pytest.fixture(params=NAMES)
def golden(request) -> Golden:
    return Golden(request.param)


@pytest.fixture(params=["reference", None], ids=["reference", "automatic"])
def backend(request):
    with so.use_backend(request.param) if request.param else contextlib.nullcontext():
        yield


def test_eval_spikes_and_logits(golden, backend):
    model = golden.model().double().eval()
    with so.record(model) as recorded:
        logits = model(golden["input"])
    torch.testing.assert_close(logits, golden["logits_eval"], rtol=0, atol=1e-9)
    expected = golden.spikes()
    assert len(recorded.spikes) == len(expected)
    for (path, spikes), truth in zip(recorded.spikes.items(), expected, strict=True):
        assert spikes.dtype == torch.uint8
        assert torch.equal(spikes, truth), path


def test_eval_without_recorder_and_without_grad(golden, backend):
    """The calls that inference makes: no bits packed, no hooks, no recorder."""
    model = golden.model().double().eval()
    with torch.no_grad():
        logits = model(golden["input"])
    torch.testing.assert_close(logits, golden["logits_eval"], rtol=0, atol=1e-9)


def test_train_logits_loss_and_gradients(golden, backend):
    model = golden.model().double().train()
    logits, aux = model(golden["input"], return_aux=True)
    torch.testing.assert_close(logits, golden["logits_train"], rtol=0, atol=1e-9)
    expected_aux = golden.part("aux_train")
    assert len(aux) == len(expected_aux)
    for i, value in enumerate(aux):
        torch.testing.assert_close(value, expected_aux[str(i)], rtol=0, atol=1e-9)
    loss = so.SMLLoss()((logits, aux), golden["target"])
    torch.testing.assert_close(loss, golden["loss_train"], rtol=1e-9, atol=0)
    loss.backward()

    name = spikformer_name if golden.spikformer else stmixer_name
    expected = translate(golden.part("grad"), name, "golden gradients")
    parameters = dict(model.named_parameters())
    assert expected.keys() == {k for k, p in parameters.items() if p.requires_grad}
    scale = max(g.abs().max() for g in expected.values())
    for key, truth in expected.items():
        # A bias before BN has no gradient but rounding: hence the absolute part.
        torch.testing.assert_close(
            parameters[key].grad,
            truth.double(),
            rtol=1e-7,
            atol=1e-12 * float(scale),
            msg=lambda text, key=key: f"{key}: {text}",
        )


def test_surrogate_modules_do_not_change_the_model():
    golden = Golden("stmixer_T1_sml")
    model = golden.model(sml=False).double().eval()
    torch.testing.assert_close(model(golden["input"]), golden["logits_eval"], rtol=0, atol=1e-9)
    logits = golden.model(sml=False).double().train()(golden["input"])
    loss = F.cross_entropy(logits, golden["target"])
    torch.testing.assert_close(logits, golden["logits_train"], rtol=0, atol=1e-9)
    assert loss.isfinite()


def assert_spikes_by_the_local_rule(model, recorded, x) -> torch.Tensor:
    """Each population, recomputed in float64 from the tested run's own upstream spikes; the result
    of ``model`` for these.

    ``model`` is the network in plain modules; ``recorded`` what the tested one did with ``x``.
    """
    oracle = copy.deepcopy(model).double().eval()
    seen = []

    def check(path: str, lif: so.LIF, currents: torch.Tensor) -> torch.Tensor:
        spikes = recorded.spikes[path].double()
        v = torch.zeros_like(currents[0])
        for x, s in zip(currents, spikes, strict=True):
            v = lif.decay * v + lif.input_scale * x
            u = v - (lif.threshold - lif.v_reset)
            wrong = ((u >= 0) != (s > 0)) & (u.abs() >= 1e-4)
            assert not wrong.any(), f"{path}: {int(wrong.sum())} spikes off the band"
            v = v * (1 - s) if lif.reset_mode == "hard" else v - lif.threshold * s
        seen.append(path)
        return spikes  # everything downstream sees the tested run's spikes

    for path, module in oracle.named_modules():
        if isinstance(module, so.LIF):
            module.register_forward_hook(lambda lif, args, _, path=path: check(path, lif, args[0]))
    with torch.no_grad():
        y = oracle(x.double())
    assert seen == list(recorded.spikes)
    return y


def test_float32_spikes_by_the_local_rule(golden, backend):
    tested = golden.model().eval()
    with so.record(tested) as recorded, torch.no_grad():
        tested(golden["input"].float())
    assert_spikes_by_the_local_rule(golden.model(), recorded, golden["input"])
