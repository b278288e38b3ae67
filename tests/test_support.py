"""What the tests themselves rely on: pairs of values, and results of compilers that are kept."""

from __future__ import annotations

import itertools
import random

import pytest
from support import kept
from support.pairs import covering, pairwise, product


def pairs_of(rows):
    """Every two values of two axes that stand in one row."""
    return {
        (a, b, row[a], row[b])
        for row in rows
        for a, b in itertools.combinations(range(len(row)), 2)
    }


@pytest.mark.parametrize("seed", range(20))
def test_every_pair_that_is_allowed_is_covered(seed):
    rng = random.Random(seed)
    axes = {
        f"axis{i}": [f"{i}{j}" for j in range(rng.randint(1, 6))] for i in range(rng.randint(2, 5))
    }
    refused = set(rng.sample(product(axes), len(product(axes)) // 3))
    whole = product(axes, lambda **row: tuple(row.values()) not in refused)
    rows = covering(whole)
    assert pairs_of(rows) == pairs_of(whole)
    assert set(rows) <= set(whole) and len(set(rows)) == len(rows)
    assert rows == covering(whole), "the same at every run, for two workers must agree"


def test_pairs_are_few():
    """Four axes of five values are 625 rows; no fewer than 25 hold every pair."""
    axes = {name: list(range(5)) for name in "abcd"}
    assert 25 <= len(covering(product(axes))) <= 40


def test_one_axis_is_taken_whole():
    assert covering(product({"a": [1, 2, 3]})) == [(1,), (2,), (3,)]
    assert covering([]) == []


def test_values_may_be_equal_or_not_hashable():
    rows = covering(product({"a": [{}, {"x": 1}], "b": [[1], [2]]}))
    assert len(rows) == 4


@pairwise(a=[1, 2, 3], b="xy", c=[None, 0.5], allowed=lambda a, b, c: (a, b) != (3, "y"))
def test_rows_reach_the_test(a, b, c, request):
    assert request.node.name == f"test_rows_reach_the_test[{a}-{b}-{c}]"
    assert (a, b) != (3, "y")


def test_a_result_is_kept_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "cache")
    source, other = tmp_path / "kernel.py", tmp_path / "imported.py"
    source.write_text("1")
    calls = []

    def compiled(options):
        def make():
            calls.append(options)
            return [options, len(calls)], [source, other]

        return kept.keep("kind", options, make)

    assert compiled("-O1") == compiled("-O1") == ["-O1", 1]
    assert compiled("-O2") == ["-O2", 2]
    assert compiled("-O1") == ["-O1", 1]
    other.write_text("2")  # was missing
    assert compiled("-O1") == compiled("-O1") == ["-O1", 3]
    source.write_text("3")
    assert compiled("-O1") == ["-O1", 4]
    assert compiled("-O2") == ["-O2", 5]
