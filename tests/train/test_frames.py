"""Augmentation of frames: what each distortion does to single pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stmixer_ops.train.frames import (
    FrameCutMix,
    _affine,
    _holes,
    _matrices,
    _roll,
    distort_frames,
)
from stmixer_ops.train.seeds import generator, seed_all


def test_rolls_go_around():
    x = torch.rand(3, 4, 7, 9)
    shifts = torch.tensor([[1, -5, 0], [2, 0, -4]])
    rolled = _roll(x, shifts)
    for i in range(3):
        expected = torch.roll(x[i], shifts[:, i].tolist(), (1, 2))
        assert torch.equal(rolled[i], expected)


@pytest.mark.parametrize("choice", [1, 2])
def test_rotation_and_shear_take_the_nearest_pixel(choice):
    height, width = 12, 17
    x = torch.randint(0, 9, (4, 2, height, width)).float()
    size = torch.tensor([-1.0, 0.0, 0.37, 0.9])
    moved = _affine(x, _matrices(torch.full((4,), choice), size, height, width))
    different = 0
    for i, value in enumerate(size.tolist()):
        angle = math.radians(30 * value)
        for row in range(height):
            for column in range(width):
                dy, dx = row - (height - 1) / 2, column - (width - 1) / 2
                if choice == 1:
                    from_x = math.cos(angle) * dx - math.sin(angle) * dy
                    from_y = math.sin(angle) * dx + math.cos(angle) * dy
                else:
                    from_x, from_y = dx + math.tan(angle) * dy, dy
                from_x, from_y = from_x + (width - 1) / 2, from_y + (height - 1) / 2
                r, c = round(from_y), round(from_x)
                if min(abs(from_x % 1 - 0.5), abs(from_y % 1 - 0.5)) < 1e-3:
                    continue  # between two pixels
                inside = 0 <= r < height and 0 <= c < width
                expected = x[i, :, r, c] if inside else torch.zeros(2)
                assert torch.equal(moved[i, :, row, column], expected), (i, row, column)
                different += int((r, c) != (row, column))
    assert different > 100
    assert torch.equal(moved[1], x[1])


def test_every_sample_has_one_distortion_alike_in_all_steps():
    frame = torch.zeros(2, 24, 30)
    frame[:, 6:18, 8:22] = torch.randint(1, 200, (2, 12, 14)).float()
    x = frame.expand(5, 64, 2, 24, 30)
    out = distort_frames(x, generator(0))
    assert out.shape == x.shape
    assert torch.equal(out, out[:1].expand_as(out)), "all steps alike"
    assert torch.equal(out, distort_frames(x, generator(0)))
    assert not torch.equal(out, distort_frames(x, generator(1)))
    values = set(frame.unique().tolist())
    assert set(out.unique().tolist()) <= values, "counts stay counts"
    shifts = [(y, x) for y in range(-5, 6) for x in range(-5, 6)]
    rolls = torch.stack([torch.roll(frame, shift, (1, 2)) for shift in shifts])
    rolled = int((out[0][:, None] == rolls).flatten(2).all(2).any(1).sum())
    assert 8 < rolled < 32, "a third is rolled"


def test_half_of_the_samples_lose_a_square():
    holes = _holes(400, 24, 30, generator(0))
    size = holes.sum((1, 2))
    assert 150 < int((size > 0).sum()) < 250
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(rows * columns, size), "a rectangle"
    whole = (rows == columns)[size > 0]  # others are cut at the border
    assert whole.float().mean() > 0.5 and int(rows.max()) == int(columns.max()) == 24 // 3


def test_cutmix_mixes_targets_by_the_area_that_came_from_another():
    mix = FrameCutMix(1.0, 0.1, 4)
    labels = torch.arange(8) % 4
    frames = (torch.arange(8.0) + 1)[None, :, None, None, None].expand(3, 8, 2, 16, 20)
    areas = []
    for step in range(12):
        seed_all(step)
        out, targets = mix(frames, labels, off=False)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        assert torch.equal(out, out[:1, :, :1].expand_as(out)), "all steps and channels alike"
        for i in range(8):
            values, counts = out[0, i, 0].unique(return_counts=True)
            expected = torch.full((4,), 0.1 / 4)
            for value, count in zip(values.long().tolist(), counts.tolist(), strict=True):
                expected[labels[value - 1]] += 0.9 * count / 320
            torch.testing.assert_close(targets[i], expected)
            areas.append(counts.min().item() / 320 if len(counts) == 2 else 0)
        off, plain = mix(frames, labels, off=True)
        assert torch.equal(off, frames) and torch.equal(plain.argmax(1), labels)
    assert 0.05 < np.mean(areas) < 0.4 and 0 in areas
