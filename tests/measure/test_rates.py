"""Random weights that fire as asked."""

from __future__ import annotations

import pytest
import torch

import stmixer_ops as so
from stmixer_ops.measure.rates import fit_rates


@pytest.mark.parametrize("steps", [1, 3])
def test_thresholds_move_every_rate(steps):
    model = so.create_model("stmixer_2_64_4", img_size=16, T=steps)
    images = torch.randn(8, 3, 16, 16)
    fit_rates(model, images, rate=0.05)
    assert not model.training
    with so.record(model) as seen:
        model(images)
    assert len(seen.rates) == 4 + 2 * 5
    assert all(abs(rate - 0.05) < 0.01 for rate in seen.rates.values()), seen.rates
    with so.record(model) as seen:  # other images
        model(torch.randn(8, 3, 16, 16))
    assert all(abs(rate - 0.05) < 0.02 for rate in seen.rates.values()), seen.rates


def test_a_rate_out_of_bounds():
    with pytest.raises(ValueError, match="rate must be between 0 and 1, got 1.5"):
        fit_rates(torch.nn.Identity(), torch.zeros(1), rate=1.5)
