"""Intervals of confidence."""

from __future__ import annotations

import math


def paired_interval(count: int, only_first: int, only_second: int) -> tuple[float, float]:
    """95 % confidence interval of the difference of two accuracies on the same images, second less
    first, in percentage points.

    Images that both get right or wrong say nothing about it. With ``b`` that only the first and
    ``c`` that only the second gets right among ``n``, each raised by 1/2 and ``n`` by 2, so that a
    few images without a difference are not taken for proof that there is none (Agresti and
    Min 2005), it is ``(c - b)/n ± 1.96 sqrt(b + c - (b - c)²/n)/n``.
    """
    n, b, c = count + 2, only_first + 0.5, only_second + 0.5
    half = 1.96 * math.sqrt(b + c - (b - c) ** 2 / n)
    return 100 * (c - b - half) / n, 100 * (c - b + half) / n
