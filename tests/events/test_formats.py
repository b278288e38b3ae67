"""Recordings in files: each format against bytes packed by hand, and what is refused."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from support import event_files as files

import stmixer_ops as so
from stmixer_ops.events.files import SUFFIXES

WRITABLE = [suffix for suffix in SUFFIXES if suffix != ".aedat4"]


def rows(events) -> tuple:
    return tuple(tuple(int(v) for v in event) for event in events)


def save(tmp_path, suffix: str, content: bytes):
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(content)
    return path


def read(tmp_path, suffix: str, content: bytes, **options):
    return so.events.read(save(tmp_path, suffix, content), **options)


# -- What is in the files -------------------------------------------------------------------------


@pytest.mark.parametrize("name", files.FILES)
def test_every_format_gives_the_events_that_were_packed(tmp_path, name):
    events = read(tmp_path, *files.FILES[name])
    assert rows(events) == files.ROWS
    assert events.dtype == np.dtype([("t", "i8"), ("x", "u2"), ("y", "u2"), ("p", "u1")])


def test_sensors_are_those_of_the_header(tmp_path):
    sensors = {name: read(tmp_path, *files.FILES[name]).sensor for name in files.FILES}
    assert sensors == {
        "n-mnist": (34, 34), "n-mnist.bs2": (34, 34), "aedat2-dvs128": (128, 128),
        "aedat2-davis": (260, 346), "aedat3": (128, 128), "npy": None, "npy-other": None,
        "npz": None, "npz-packed": None, "evt2": (40, 50), "evt3": (720, 1280), "dat": (40, 50),
    }  # fmt: skip
    gesture = files.bin_events([(1, 127, 3, 1)])
    assert read(tmp_path, ".bin", gesture).sensor == (128, 128)


def test_overflow_marks_of_n_mnist_move_all_later_times(tmp_path):
    stored = [(5, 1, 1, 0), (9, 2, 2, 1), (1, 3, 3, 0)]
    content = files.bin_events(stored[:1]) + bytes((9, 240, 128, 1, 1)) * 2
    content += (
        files.bin_events(stored[1:2]) + bytes((0, 240, 0, 0, 0)) + files.bin_events(stored[2:])
    )
    events = read(tmp_path, ".bin", content)
    assert rows(events) == ((5, 1, 1, 0), (9 + 2 * 8192, 2, 2, 1), (1 + 3 * 8192, 3, 3, 0))


def test_aedat2_leaves_out_what_is_no_event_of_a_pixel(tmp_path):
    external = struct.pack(">Ii", 0x8000, 5)
    assert rows(read(tmp_path, ".aedat", files.aedat2(files.ROWS) + external)) == files.ROWS
    others = struct.pack(">IiIi", 0x8000_0000 | 5 << 12, 6, 1 << 10, 7)
    header = files.aedat2([], "davis")
    davis = files.aedat2([], "davis.DAVIS240C") + others
    davis += files.aedat2(files.ROWS, "davis")[len(header) :]
    assert rows(read(tmp_path, ".aedat", davis)) == files.ROWS


def test_aedat2_data_may_begin_with_the_sign_of_a_comment(tmp_path):
    event = (9, 0x100, 0x8C, 1)  # the address begins with the byte of '#'
    davis = files.aedat2([event], "davis.DAVIS640", "# created today\r\n")
    assert davis[-8] == ord("#")
    assert rows(read(tmp_path, ".aedat", davis)) == (event,)


def test_aedat3_drops_invalid_events_and_counts_overflows(tmp_path):
    late = [(7, 1, 2, 1), (8, 3, 4, 0)]
    content = files.aedat3(
        files.aedat3_packet(files.ROWS, invalid=(1,)), files.aedat3_packet(late, overflow=2)
    )
    expected = (*files.ROWS[:1], *files.ROWS[2:], *((t + 2**32, *xyp) for t, *xyp in late))
    assert rows(read(tmp_path, ".aedat", content)) == expected


def test_evt2_carries_its_clock_on_and_says_what_came_before_it(tmp_path):
    high = 0xFFF_FFFF
    words = [
        1 << 28 | 5 << 22 | 3 << 11 | 4,
        8 << 28 | high,
        1 << 22,
        0xA << 28,
        8 << 28 | 0,
        2 << 22,
    ]
    with pytest.warns(UserWarning, match="1 events before the first time are left out"):
        events = read(tmp_path, ".raw", files.evt2(*words))
    assert rows(events) == ((high << 6 | 1, 0, 0, 0), ((high + 1) << 6 | 2, 0, 0, 0))


def test_evt3_vectors_follow_each_other(tmp_path):
    y, x, base, v12, v8, low, high = (kind << 12 for kind in (0, 2, 3, 4, 5, 6, 8))
    words = [
        high | 1, low | 7, y | 11, base | 1 << 11 | 100, v12 | 0b100000000001, x | 5,
        v8 | 0b10000010, 0xA000, v12 | 1, low | 8, y | 12, base | 20, v8 | 0x80,
        high | 1, x | 1, high | 2, x | 2, low | 3, x | 3,
    ]  # fmt: skip
    t = 1 << 12
    expected = (
        (t + 7, 100, 11, 1), (t + 7, 111, 11, 1), (t + 7, 5, 11, 0), (t + 7, 113, 11, 1),
        (t + 7, 119, 11, 1), (t + 7, 120, 11, 1), (t + 8, 27, 12, 0), (t + 8, 1, 12, 0),
        (2 * t, 2, 12, 0), (2 * t + 3, 3, 12, 0),
    )  # fmt: skip
    assert rows(read(tmp_path, ".raw", files.evt3(*words))) == expected


def test_evt3_against_a_decoder_that_goes_word_by_word(tmp_path):
    generator = np.random.default_rng(0)
    kinds = generator.choice([0, 2, 3, 4, 5, 6, 7, 8, 10, 14, 15], 3000)
    # Times that grow: low and high words count up.
    words, clock = [8 << 12, 0, 3 << 12], 0
    for kind in kinds.tolist():
        payload = int(generator.integers(1 << 11))
        if kind in (6, 8):
            clock += int(generator.integers(1, 90_000))
            words += [8 << 12 | clock >> 12 & 0xFFF, 6 << 12 | clock & 0xFFF]
        else:
            words.append(kind << 12 | (payload & 0x3FF if kind == 3 else payload))
    state = dict.fromkeys("yxpt", 0)
    expected = []
    for word in words:
        kind, payload = word >> 12, word & 0xFFF
        if kind == 0:
            state["y"] = payload & 0x7FF
        elif kind == 2:
            expected.append((state["t"], payload & 0x7FF, state["y"], payload >> 11))
        elif kind == 3:
            state["x"], state["p"] = payload & 0x7FF, payload >> 11
        elif kind in (4, 5):
            for bit in range(12 if kind == 4 else 8):
                if payload >> bit & 1:
                    expected.append((state["t"], state["x"] + bit, state["y"], state["p"]))
            state["x"] += 12 if kind == 4 else 8
        elif kind == 6:
            state["t"] = state["t"] >> 12 << 12 | payload
        elif kind == 8:
            high = state["t"] >> 12
            if payload != high & 0xFFF:
                high += (payload - high) % 4096
                state["t"] = high << 12
    assert state["t"] > 2**24, "the clock of 24 bits has to overflow"
    content = files.evt3(*words).replace(b"height=720;width=1280", b"height=2048;width=2048")
    events = read(tmp_path, ".raw", content)
    assert rows(events) == tuple(expected)


@pytest.mark.parametrize("names", ["txyp", ("ts", "x", "y", "pol")])
def test_npz_takes_a_structured_array_too(tmp_path, names):
    array = np.array(list(files.ROWS), [(name, "i4") for name in names])
    np.savez_compressed(tmp_path / "clip.npz", events=array)
    assert rows(so.events.read(tmp_path / "clip.npz")) == files.ROWS


def aedat4(rows_, width: int = 50, height: int = 40) -> bytes:
    """One uncompressed packet; its tables of FlatBuffers laid out by hand."""
    xml = (
        '<dv version="2.0"><node name="outInfo" path="/o/"><node name="0" path="/o/0/">'
        '<attr key="compression" type="string">NONE</attr>'
        '<attr key="originalOutputName" type="string">events</attr>'
        '<attr key="typeIdentifier" type="string">EVTS</attr>'
        '<node name="info" path="/o/0/info/">'
        f'<attr key="sizeX" type="int">{width}</attr><attr key="sizeY" type="int">{height}</attr>'
        "</node></node></node></dv>"
    ).encode()
    text = struct.pack("<I", len(xml)) + xml + b"\0"
    text += bytes(-len(text) % 4)
    # Root at 20, identifier, table of fields at 8 (compression, position, text), the table itself.
    table = struct.pack("<I4s5Hxx", 20, b"IOHE", 10, 20, 4, 12, 8)
    table += struct.pack("<iiIq", 12, 0, 12, -1) + text
    header = b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(table)) + table
    events = b"".join(struct.pack("<qhh?xxx", t, x, y, bool(p)) for t, x, y, p in rows_)
    packet = struct.pack("<I4s3HxxiI4xI", 16, b"EVTS", 6, 8, 4, 8, 8, len(rows_)) + events
    packet = struct.pack("<I", len(packet)) + packet
    return header + struct.pack("<ii", 0, len(packet)) + packet


def test_aedat4_through_its_package(tmp_path):
    pytest.importorskip("aedat", reason="AEDAT 4 needs the package aedat")
    events = read(tmp_path, ".aedat4", aedat4(files.ROWS))
    assert rows(events) == files.ROWS and events.sensor == (40, 50)
    with pytest.raises(ValueError, match="byte 0: no AEDAT 4 file"):
        read(tmp_path, ".aedat4", aedat4(files.ROWS)[:60])
    whole = aedat4(files.ROWS)
    # The length of the header's text, on which the package panics.
    with pytest.raises(ValueError, match=r"byte 0: no AEDAT 4 file \(range end index"):
        read(tmp_path, ".aedat4", whole[:58] + b"\xff" * 4 + whole[62:])
    at = len(whole) - 16 * len(files.ROWS) - 4  # the number of events
    with pytest.raises(ValueError, match=rf"byte {len(whole)} or before: "):
        read(tmp_path, ".aedat4", whole[:at] + b"\xff" * 4 + whole[at + 4 :])


def test_aedat4_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(ImportError, match=r"AEDAT 4 .* pip install stmixer-ops\[events\]"):
        read(tmp_path, ".aedat4", b"#!AER-DAT4.0\r\n")


# -- Writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITABLE)
def test_written_files_hold_the_same_events(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    events = so.events.as_events(np.array(list(files.ROWS), so.events.DTYPE), sensor=(40, 50))
    so.events.write(path, events)
    assert rows(so.events.read(path)) == files.ROWS
    so.events.write(path, events[:0])
    assert len(so.events.read(path)) == 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_bin_marks_overflows_only_where_times_need_them(tmp_path):
    late = [(0, 1, 1, 0), (2**23 - 1, 2, 2, 1), (2**23, 3, 3, 0), (2**31, 4, 4, 1)]
    path = tmp_path / "late.bin"
    so.events.write(path, np.array(late, so.events.DTYPE))
    raw = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 5)
    assert (raw[:, 1] == 240).sum() == -((2**23 - 1 - 2**31) // 2**13)
    assert (raw[:2, 1] < 240).all() and raw[2, 1] == 240
    assert rows(so.events.read(path)) == tuple(late)


@pytest.mark.parametrize(
    ("suffix", "event", "message"),
    [
        (".bin", (1, 256, 0, 0), "x below 256, got 256 in event 1"),
        (".bin", (1, 0, 240, 0), "y below 240, got 240"),
        (".bin", (2**32, 0, 0, 0), "t below 4294967296"),
        (".aedat", (2**31, 0, 0, 0), "t below 2147483648"),
        (".aedat", (1, 640, 0, 0), "x below 640"),
        (".dat", (2**32, 0, 0, 0), "t below 4294967296"),
        (".raw", (1, 0, 2048, 0), "y below 2048"),
        (".raw", (2**34, 0, 0, 0), "t below 17179869184"),
        (".aedat4", (1, 0, 0, 0), "can write .*, got '.aedat4'"),
        (".txt", (1, 0, 0, 0), "can write .*, got '.txt'"),
    ],
)
def test_what_a_format_cannot_hold_is_named(tmp_path, suffix, event, message):
    events = np.array([(0, 0, 0, 0), event], so.events.DTYPE)
    with pytest.raises(ValueError, match=message):
        so.events.write(tmp_path / f"clip{suffix}", events)
    assert not list(tmp_path.iterdir())


# -- What is refused ------------------------------------------------------------------------------

DAMAGED = {
    "n-mnist": (".bin", files.BIN[:-2], 25, 4),
    "aedat2": (".aedat", files.aedat2(files.ROWS)[:-3], len(files.aedat2(files.ROWS)) - 8, 4),
    "aedat2-foreign": (
        ".aedat", files.aedat2(files.ROWS[:2]) + struct.pack(">Ii", 1 << 20, 9),
        len(files.aedat2(files.ROWS[:2])), 2,
    ),
    "aedat3-event": (
        ".aedat", files.aedat3(files.aedat3_packet(files.ROWS))[:-20],
        len(files.AEDAT3_HEADER) + 28 + 2 * 8, 2,
    ),
    "aedat3-packet": (
        ".aedat", files.aedat3(files.aedat3_packet(files.ROWS[:2]), b"\xff" * 40),
        len(files.AEDAT3_HEADER) + 28 + 2 * 8, 2,
    ),
    "npy": (".npy", files.npy(files.ROWS)[:-14], 127 + 1 + 3 * 13, 3),
    "evt2-word": (
        ".raw", files.evt2(*evt, 3 << 28) if (evt := files.evt2_words(files.ROWS)) else b"",
        len(files.EVT2_HEADER) + 4 * len(evt), 5,
    ),
    "evt2-cut": (
        ".raw", files.evt2(*evt)[:-1], len(files.EVT2_HEADER) + 4 * (len(evt) - 1), 4,
    ),
    "evt3-word": (
        ".raw", files.evt3(*files.evt3_words(files.ROWS[:2]), 0x1000),
        len(files.EVT3_HEADER) + 2 * 8, 2,
    ),
    "evt3-cut": (
        ".raw", files.evt3(*files.evt3_words(files.ROWS))[:-1],
        len(files.EVT3_HEADER) + 2 * 19, 4,
    ),
    "dat": (".dat", files.dat(files.ROWS)[:-5], len(files.dat(files.ROWS)) - 8, 4),
    "beyond the sensor": (
        ".dat", files.dat([(1, 49, 39, 0), (2, 50, 0, 0)]), len(files.dat(files.ROWS[:1])), 1,
    ),
    "unsorted": (".bin", files.bin_events([(9, 1, 1, 0), (12, 2, 2, 0), (11, 3, 3, 1)]), 10, 2),
    "negative": (
        ".aedat", files.aedat2([(1, 1, 1, 0), (-5, 1, 1, 0)]), len(files.aedat2(files.ROWS[:1])), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named_with_file_and_byte_and_partial_keeps_the_rest(tmp_path, name):
    suffix, content, offset, kept = DAMAGED[name]
    with pytest.raises(ValueError, match=rf"clip\{suffix}: byte {offset}: ") as refused:
        read(tmp_path, suffix, content)
    assert "partial=True" in str(refused.value)
    with pytest.warns(UserWarning, match=rf"byte {offset}: .* the {kept} events before are kept"):
        events = read(tmp_path, suffix, content, partial=True)
    assert len(events) == kept
    if name not in ("beyond the sensor", "unsorted", "negative"):
        assert rows(events) == files.ROWS[:kept]


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".aedat", b"hello", "byte 0: expected #!AER-DAT2.0"),
        (".aedat", b"#!AER-DAT1.0\r\n", "can read AEDAT 2.0, 3.1 and 4.0, got 1.0"),
        (".aedat", b"#!AER-DAT3.1\r\n#Format", "the header has no end"),
        (".raw", b"\0" * 16, "byte 0: expected a header of lines that begin with %"),
        (".raw", b"% evt 2.1\n\0\0", "can read EVT 2.0 and 3.0, the header says 2.1"),
        (".raw", b"% format EVT21;height=3;width=3\n", "the header says EVT21"),
        (".raw", b"% date 2020\n", "the header says nothing"),
        (".dat", files.DAT_HEADER.replace(b"n 2", b"n 1"), "can read version 2 of DAT"),
        (
            ".raw",
            b"% evt 3.0\n% geometry 0x99999\n",
            "byte 0: no camera has 99999 rows of 0 pixels",
        ),
        (
            ".aedat",
            files.aedat2(files.ROWS, "DVS320"),
            "can read addresses of DVS128 and DAVIS, got",
        ),
        (".dat", files.dat(files.ROWS, kind=14), "byte 68: expected events of pixels .*type 14"),
        (".npy", b"\x93NUMPY\x01\x00\xff\xff{", "byte 0: no array of NumPy"),
        (".npy", files.npy(files.ROWS, (("t", "<i8"), ("x", "<u2"))), "expected one field y"),
        (".npz", b"PK\x03\x04", "byte 0: no archive of arrays"),
        (".npz", files.npz(files.ROWS, names=("t", "x", "y", "frames")), "expected one field p"),
        (".npz", files.npz(files.ROWS, types=("<f8", "<i8", "<i8", "<i8")), "t must be integers"),
        (".bin", b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
        (".csv", b"1,2,3,4", "can read .bin, .* got '.csv'"),
    ],
)
def test_foreign_files_are_refused(tmp_path, suffix, content, message):
    for partial in (False, True):
        with pytest.raises(ValueError, match=message) as refused:
            read(tmp_path, suffix, content, partial=partial)
        assert str(tmp_path / f"clip{suffix}") in str(refused.value)


def test_sort_puts_events_in_order_and_keeps_ties(tmp_path):
    late = [(9, 1, 1, 0), (3, 2, 2, 0), (9, 3, 3, 1), (3, 4, 4, 0)]
    events = read(tmp_path, ".bin", files.bin_events(late), sort=True)
    assert [row[1] for row in rows(events)] == [2, 4, 1, 3]


# -- Other people's arrays ------------------------------------------------------------------------


def test_fields_are_found_by_name_in_any_type_and_order():
    expected = np.array(list(files.ROWS), so.events.DTYPE)
    as_tonic = np.array(
        [(x, y, t, bool(p)) for t, x, y, p in files.ROWS],
        [("x", "i2"), ("y", ">i4"), ("timestamp", "u8"), ("polarity", "?")],
    )
    signed = {"t": expected["t"], "x": expected["x"], "y": expected["y"],
              "p": expected["p"].astype(np.int8) * 2 - 1}  # fmt: skip
    for data in (as_tonic, signed, expected.view(np.recarray)):
        assert rows(so.events.as_events(data)) == files.ROWS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": [3, 2, 5]}, "event 1: t = 2 is earlier than 3 before it"),
        ({"t": [-1, 2, 5]}, "event 0: t must be 0 or more, got -1"),
        ({"t": np.array([1, 2**63, 2**63], ">u8")}, "event 1: t must be below 2"),
        ({"x": [0, 0, 8]}, "event 2: x must be from 0 to 7, got 8"),
        ({"y": [0, -2, 8]}, "event 1: y must be from 0 to 9, got -2"),
        ({"p": [0, 1, 2]}, "event 2: p must be 0 or 1 in this recording, got 2"),
        ({"p": [0, 1, -1]}, "event 0: p must be -1 or 1 in this recording, got 0"),
        ({"p": [0, 1]}, "fields must have the same length"),
        ({"t": [0, 1, 1], "x": [0, 9, 0], "y": [99, 0, 0]}, "event 0: y must be"),
    ],
)
def test_the_first_bad_event_is_named(change, message):
    columns = {"t": [1, 2, 3], "x": [0, 1, 2], "y": [0, 1, 2], "p": [0, 1, 1]}
    data = {name: np.asarray(column) for name, column in (columns | change).items()}
    with pytest.raises(ValueError, match=message):
        so.events.as_events(data, sensor=(10, 8))


def test_arrays_that_are_no_recording_are_refused():
    with pytest.raises(TypeError, match=r"expected one field t .*, got none \(ndarray\)"):
        so.events.as_events(np.zeros((5, 4)))
    real = np.zeros(3, [("t", "f8"), ("x", "i4"), ("y", "i4"), ("p", "i4")])
    with pytest.raises(TypeError, match="field t must be integers"):
        so.events.as_events(real)


def test_the_sensor_stays_with_parts_copies_and_pickles():
    events = so.events.as_events(np.array(list(files.ROWS), so.events.DTYPE), sensor=40)
    for same in (
        events[1:],
        events[events["p"] == 1],
        events.copy(),
        pickle.loads(pickle.dumps(events)),
    ):
        assert same.sensor == (40, 40) and type(same) is so.events.Events
    assert type(events["t"]) is np.ndarray


def test_events_need_no_torch():
    code = (
        "import sys, stmixer_ops as so; so.events.read, so.events.to_frames; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_real_recordings(shared_data):
    paths = sorted((shared_data / "dvs128-gesture-clips").glob("*.bs2"))
    if not paths:
        pytest.skip("no clips there")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events = so.events.read(paths[0])
    assert events.sensor == (128, 128) and len(events) == paths[0].stat().st_size // 5
    assert 1_400_000 < events["t"][-1] < 1_500_000
