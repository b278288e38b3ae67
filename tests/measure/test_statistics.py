"""Intervals: how often they cover the truth."""

from __future__ import annotations

import numpy as np

from stmixer_ops.measure.statistics import paired_interval


def test_the_interval_covers_what_it_should():
    """Paired answers of known accuracies: the true difference lies within nearly always."""
    rng = np.random.default_rng(0)
    first, second, covered = 0.90, 0.88, 0
    for _ in range(2000):
        u, v = rng.random(500), rng.random(500)
        a = u < first
        b = np.where(v < 0.9, u < second, rng.permutation(u) < second)  # mostly alike
        low, high = paired_interval(500, (a & ~b).sum(), (b & ~a).sum())
        assert low <= (b.sum() - a.sum()) / 5 <= high
        covered += low <= 100 * (second - first) <= high
    assert 0.93 < covered / 2000 < 0.98


def test_the_interval_of_equal_answers_is_no_point():
    low, high = paired_interval(1000, 0, 0)
    assert low == -high < -0.1
    assert high > 50 * paired_interval(100_000, 0, 0)[1] > 0
