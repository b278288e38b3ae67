"""Damaged files give an error that names file and place, or a valid recording; nothing else."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from support import event_files as files

import stmixer_ops as so


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """One to three small damages: bits, bytes, cuts, repetitions, insertions."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 4))):
        at = int(generator.integers(len(data) + 1))
        length = int(generator.integers(1, 20))
        kind = int(generator.integers(6))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            data[at : at + length] = generator.bytes(len(data[at : at + length]))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        else:
            data[at:at] = bytes([int(generator.choice([0, 255]))]) * length
    return bytes(data)


def check(events: so.events.Events) -> None:
    assert events.dtype == so.events.DTYPE and events.ndim == 1
    assert (np.diff(events["t"]) >= 0).all() and (events["t"] >= 0).all()
    assert (events["p"] <= 1).all()
    if events.sensor is not None and len(events):
        assert events["y"].max() < events.sensor[0] and events["x"].max() < events.sensor[1]


@pytest.mark.parametrize("name", files.FILES)
def test_mutations(tmp_path, name, full):
    suffix, content = files.FILES[name]
    path = tmp_path / f"clip{suffix}"
    generator = np.random.default_rng(len(name))
    refused = accepted = 0
    for _ in range(3000 if full else 150):
        path.write_bytes(mutate(content, generator))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                whole = so.events.read(path)
            except ValueError as error:
                whole = None
                assert str(error).startswith(f"{path}: ") and re.search(r"byte \d+", str(error))
                refused += 1
            try:
                part = so.events.read(path, partial=True)
            except ValueError:
                assert whole is None
                continue
        check(part)
        if whole is not None:
            accepted += 1
            check(whole)
            assert np.array_equal(whole, part)
    assert refused > 20 and accepted > 0


@pytest.mark.parametrize("suffix", [".bin", ".aedat", ".npy", ".npz", ".raw", ".dat"])
def test_an_empty_file_is_an_empty_recording_or_refused(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"")
    if suffix == ".bin":  # the format has no header
        assert len(so.events.read(path)) == 0
        return
    with pytest.raises(ValueError, match=r"clip\.\w+: byte 0"):
        so.events.read(path)
