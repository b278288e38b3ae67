"""What commands, benchmarks and studies share: cost, comparison, statistics, tables, times.

``energy`` and ``table`` import nothing of this package, so that every room may use them.
"""
