"""What the recorder says: tables, what it cannot count, and how calls add up."""

from __future__ import annotations

import csv

import pytest
import torch
import torch.nn.functional as F
from support.networks import expected_of_own, own, spiking
from torch import Tensor, nn

import stmixer_ops as so

# -- What is said rather than counted --------------------------------------------------------------


@torch.library.custom_op("stmixer_test::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x @ x.mT


def _parts(layer: nn.Module, calls) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif, self.layer = so.LIF(), layer

        def forward(self, x: Tensor) -> Tensor:
            return calls(self.layer, self.lif(x))

    return Net()


UNCOUNTED = {
    "bilinear": (nn.Bilinear(6, 6, 3), lambda layer, s: layer(s, s), "layer", "_trilinear"),
    "foreign": (nn.Identity(), lambda layer, s: mystery(layer(s)), "(model)", "mystery"),
    "distances": (nn.Identity(), lambda layer, s: torch.cdist(s, s), "(model)", "cdist"),
    "sparse": (nn.Identity(), lambda _, s: s[0, 0].to_sparse() @ s[0, 0].mT, "(model)", "sparse"),
    "weights": (nn.Identity(), lambda layer, s: F.conv1d(s[0], s[0]), "(model)", "weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_nobody_can_count_is_listed(name):
    layer, calls, path, reason = UNCOUNTED[name]
    model = _parts(layer, calls)
    with so.record(model) as r:
        model(spiking(3, 2, 4, 6))
    assert set(r.uncounted) == {path} and reason in r.uncounted[path]
    assert f"uncounted: {path}" in r.table()


def test_an_image_of_zeros_costs_what_any_image_costs():
    model = own().eval()
    with so.record(model) as r:
        model(torch.zeros(1, 2, 8, 8))
    assert r.macs == {"stem": 8 * 8 * 4 * 2 * 9}


def test_no_image_costs_nothing():
    model = so.create_model("stmixer_1_16_2", img_size=16).eval()
    with so.record(model) as r:
        model(torch.zeros(0, 3, 16, 16))
    assert set(r.rates.values()) == {0.0} and r.energy() == 0
    assert r.table() and "0 images" in repr(r)


def test_nothing_but_the_model_counts():
    model, other = own().eval(), nn.Linear(3, 3)
    with so.record(model) as r:
        other(torch.rand(2, 3))
        y = model(torch.rand(1, 2, 8, 8))
        other(y[:, :3])
    assert set(r.macs) == {"stem"} and not r.uncounted
    with so.record(model) as r:
        model(torch.rand(1, 2, 8, 8)) @ torch.rand(5, 5)
    assert set(r.macs) == {"stem"}
    assert "outside" in r.uncounted["(model)"]


# -- Table, CSV, repr -----------------------------------------------------------------------------


def test_table_and_csv_add_up(tmp_path):
    model = own().eval()
    with so.record(model) as r:
        model(torch.rand(2, 2, 8, 8))
    r.to_csv(tmp_path / "cost.csv")
    rows = list(csv.DictReader((tmp_path / "cost.csv").read_text().splitlines()))
    assert [row["layer"] for row in rows] == ["stem", "lif1", "lif2"]
    assert [int(row["neurons"]) for row in rows] == [0, 4 * 64, 6 * 16]
    assert rows[0]["rate"] == "" and float(rows[1]["rate"]) == r.rates["lif1"]
    totals = {"macs": r.macs, "sops": r.sops, "spikes": r.counts}
    for field, values in totals.items():
        assert sum(float(row[field]) for row in rows) == sum(values.values()) / 2
    assert {row["layer"]: float(row["energy_pj"]) for row in rows} == pytest.approx(r.energies)
    assert sum(r.energies.values()) == pytest.approx(r.energy())
    lines = r.table().splitlines()
    assert [line.split()[0] for line in lines] == [
        "per",
        "─" * len(lines[1]),
        "stem",
        "lif1",
        "lif2",
        "total",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "cost.csv"]
    text = repr(r)
    assert text.startswith("record(2 LIFs, 2 images: rate 0.") and "uncounted" not in text
    empty = so.record(model)
    assert empty.energy() == 0 and "0 images" in repr(empty) and "total" in empty.table()


def test_engine_has_the_same_table(tmp_path):
    torch.manual_seed(0)
    model = so.STMixer(img_size=16, embed_dim=16, depth=2, num_heads=4, threshold=0.3).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad(), so.record(model) as r:
        model(x)
    stats = so.Engine.compile(model).run(x).stats
    assert stats.energies == pytest.approx(r.energies)
    assert stats.energy() == pytest.approx(r.energy(), rel=1e-12)
    assert sorted(stats.table().splitlines()) == sorted(r.table().splitlines())
    files = [tmp_path / "engine.csv", tmp_path / "torch.csv"]
    for source, path in zip((stats, r), files, strict=True):
        source.to_csv(path)
    engine, torch_ = (sorted(path.read_text().splitlines()) for path in files)
    assert engine == torch_


# -- Calls -----------------------------------------------------------------------------------------


def test_calls_of_different_length_and_batch_add_up():
    model = own().eval()
    x = torch.rand(4, 2, 8, 8)
    single = []
    for T, batch in ((3, x[:3]), (5, x[3:])):
        model.T = T
        with so.record(model) as r:
            model(batch)
        single.append(r)
    with so.record(model) as both:
        for T, batch in ((3, x[:3]), (5, x[3:])):
            model.T = T
            model(batch)
    for field in ("counts", "neuron_steps", "sops", "macs"):
        sums = [getattr(single[0], field), getattr(single[1], field)]
        assert getattr(both, field) == {p: sums[0][p] + sums[1][p] for p in sums[0]}, field
    assert both.images == 4
    assert both.dense_macs == single[0].dense_macs == single[1].dense_macs
    assert both.spikes["lif1"].shape[:2] == (5, 1)  # of the last call


def test_steps_one_by_one_are_one_image():
    class Stepwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif, self.fc = so.LIF(), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            state, outputs = None, []
            for step in x:
                s, state = self.lif(step[None], state, return_state=True)
                outputs.append(self.fc(s[0]))
            return torch.stack(outputs)

    model, x = Stepwise(), spiking(4, 3, 6)
    with so.record(model) as r:
        model(x)
    assert r.images == 3
    assert r.sops == {"lif": 5 * int(so.LIF()(x).sum())}
    assert r.dense_macs == {"lif": 30}


def test_recorders_nest_and_end_with_an_error():
    model = own().eval()
    with so.record(model) as outer:
        with pytest.raises(RuntimeError, match="channels"), so.record(model) as inner:
            model(torch.rand(1, 2, 8, 8))
            model(torch.rand(1, 3, 8, 8))
        model(torch.rand(1, 2, 8, 8))
    assert inner.images == 1 and outer.images == 2
    assert inner.macs["stem"] * 2 == outer.macs["stem"]
    assert not so.LIF.observers and not inner._stack
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert torch._C._len_torch_dispatch_stack() == 0 == torch._C._len_torch_function_stack()
    with inner:  # once more: adds up
        model(torch.rand(1, 2, 8, 8))
        with pytest.raises(RuntimeError, match="recording already"):
            inner.__enter__()
    assert inner.images == 2


def test_what_a_checkpoint_computes_again_does_not_count():
    model = own()
    with so.record(model) as r:
        y = torch.utils.checkpoint.checkpoint(model, torch.rand(2, 2, 8, 8), use_reentrant=False)
        y.sum().backward()
    assert (r.sops, r.macs) == expected_of_own(r, 2)
    assert r.images == 2


def test_wrappers_leave_no_trace_in_paths():
    model = own().eval()
    with so.record(model) as plain:
        model(torch.rand(1, 2, 8, 8))
    model.conv = torch.compile(model.conv, backend="eager")
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(model))
    with so.record(averaged) as r:
        averaged(torch.rand(1, 2, 8, 8))
    assert set(r.macs) == set(plain.macs) and set(r.sops) == set(plain.sops)
    assert r.images == 1
