"""The official code's spikes, logits and gradients, and the rule for spikes in float32."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.paths import GOLDEN, SHARED

import stmixer_ops as so

FULL = Path(os.environ.get("STMIXER_GOLDEN", SHARED / "golden"))


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
