"""Text of tables and figures."""

from __future__ import annotations

from stmixer_ops.measure.table import energy, format_table, quantity


def test_tables():
    table = format_table(["a", "count"], [["x", "1"], ["long", "23"]])
    assert table == "a     count\n───────────\nx         1\nlong     23"
    assert [quantity(v) for v in (0, 7, 1234, 5.6e6, 2e9)] == ["0", "7", "1.23 k", "5.6 M", "2 G"]
    assert [energy(v) for v in (5, 5e3, 5e6, 5e9)] == ["5 pJ", "5 nJ", "5 µJ", "5 mJ"]
