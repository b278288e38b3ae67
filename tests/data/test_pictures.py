"""Picture files of every mode and depth, against pixels worked out by hand with NumPy."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pil

from stmixer_ops.data.images import open_image
from stmixer_ops.data.pictures import picture_size

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
ALPHA[0, :3] = (0, 255, 128)


def shown(path: Path, channels: int = 3) -> np.ndarray:
    return np.asarray(open_image(path, channels)).astype(int)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


def as_colour(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def as_grey(colour: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601."""
    return colour @ np.array([0.299, 0.587, 0.114])


def png(rows: list[bytes], width: int, depth: int, colour_type: int, *chunks: tuple) -> bytes:
    """A PNG file put together by hand, with ``chunks`` (name, content) before the pixels; all but
    the first of them stand behind the pixels, too."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), *chunks[1:], (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in parts)


# How the stored pixels of each EXIF orientation are turned to be upright.
UPRIGHT = {
    1: lambda s: s,
    2: lambda s: s[:, ::-1],
    3: lambda s: s[::-1, ::-1],
    4: lambda s: s[::-1],
    5: lambda s: s.swapaxes(0, 1),
    6: lambda s: np.rot90(s, -1),
    7: lambda s: s[::-1, ::-1].swapaxes(0, 1),
    8: lambda s: np.rot90(s),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_followed(tmp_path, suffix, orientation):
    exif = pil.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(COLOUR[:2, :3], np.ones((16, 16, 1), np.uint8))  # survives JPEG
    path = tmp_path / f"side.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    options |= {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    pil.fromarray(blocks).save(path, exif=exif, **options)
    expected = UPRIGHT[orientation](blocks)
    assert shown(path).shape == expected.shape
    np.testing.assert_allclose(shown(path), expected, atol=12 if suffix == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_keep_a_picture_from_being_shown(tmp_path):
    pil.fromarray(COLOUR).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), COLOUR)


def with_palette() -> tuple:
    picture = pil.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7), "P")
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    picture.putpalette(palette.tobytes())
    return picture, palette[:35].reshape(5, 7, 3)


def test_transparency_is_laid_on_white(tmp_path):
    palette, colours = with_palette()
    alphas = RNG.integers(0, 256, 256, dtype=np.uint8)
    one_clear = np.full((5, 7), 255)
    one_clear[1, 3] = 0
    cases = {
        "rgba.png": (np.dstack([COLOUR, ALPHA]), {}, on_white(COLOUR, ALPHA)),
        "rgba.tif": (np.dstack([COLOUR, ALPHA]), {}, on_white(COLOUR, ALPHA)),
        "la.png": (np.dstack([GREY, ALPHA]), {}, on_white(as_colour(GREY), ALPHA)),
        "p-alphas.png": (
            palette, {"transparency": alphas.tobytes()},
            on_white(colours, alphas[:35].reshape(5, 7)),
        ),
        "p-one.png": (palette, {"transparency": 10}, on_white(colours, one_clear)),
        "p-one.gif": (palette, {"transparency": 10}, on_white(colours, one_clear)),
        "p.png": (palette, {}, colours),
    }  # fmt: skip
    for name, (pixels, options, expected) in cases.items():
        picture = pil.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
        picture.save(tmp_path / name, **options)
        np.testing.assert_allclose(shown(tmp_path / name), expected, atol=1, err_msg=name)
        grey = shown(tmp_path / name, 1)
        np.testing.assert_allclose(grey, as_grey(expected), atol=2, err_msg=name)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_transparent_grey_value_in_every_depth(tmp_path, depth):
    most = 2**depth - 1
    values = [0, 1, min(2, most), most]
    bits = "".join(f"{v:0{depth}b}" for v in values)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    (tmp_path / "a.png").write_bytes(png([row], 4, depth, 0, (b"tRNS", struct.pack(">H", 1))))
    expected = [255 if v == 1 else round(255 * v / most) for v in values]
    assert shown(tmp_path / "a.png", 1).tolist() == [expected]


def test_one_transparent_colour_of_16_bits(tmp_path):
    row = struct.pack(">6H", 0x8012, 0x8012, 0x8012, 0x4000, 0, 0xFFFF)
    clear = struct.pack(">3H", 0x8012, 0x8012, 0x8012)
    (tmp_path / "a.png").write_bytes(png([row], 2, 16, 2, (b"tRNS", clear)))
    assert shown(tmp_path / "a.png").tolist() == [[[255, 255, 255], [64, 0, 255]]]


def test_grey_of_any_depth(tmp_path):
    deep = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
    deep[0, :2] = (0, 65535)
    expected = np.rint(deep / 257)
    ones = GREY > 127
    cases = {
        "16.png": (deep, expected),
        "16.tif": (deep, expected),
        "16-in-32.tif": (deep.astype(np.int32), expected),
        "8-in-32.tif": (GREY.astype(np.int32), GREY),
        "unit.tif": ((deep / 65535).astype(np.float32), expected),
        "float.tif": (GREY.astype(np.float32), GREY),
        "bits.png": (ones, 255 * ones),
        "l.png": (GREY, GREY),
    }
    for name, (pixels, grey) in cases.items():
        pil.fromarray(pixels).save(tmp_path / name)
        np.testing.assert_array_equal(shown(tmp_path / name, 1), grey, err_msg=name)
        np.testing.assert_array_equal(shown(tmp_path / name), as_colour(grey), err_msg=name)
    (tmp_path / "16.pgm").write_bytes(b"P5 7 5 65535\n" + deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(shown(tmp_path / "16.pgm", 1), expected)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.array([[-1, 5]], np.int32), "got -1 to 5"),
        (np.array([[0, 70000]], np.int32), "must lie from 0 to 255 or 65535, got 0 to 70000"),
        (np.array([[0.5, np.nan]], np.float32), "got nan to nan"),
    ],
)
def test_grey_without_a_known_scale_is_refused(tmp_path, pixels, text):
    pil.fromarray(pixels).save(tmp_path / "odd.tif")
    with pytest.raises(ValueError, match=rf"odd\.tif: .*{text}"):
        open_image(tmp_path / "odd.tif", 1)


def test_other_colour_spaces(tmp_path):
    inks = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    pil.fromarray(inks, "CMYK").save(tmp_path / "cmyk.tif")
    left = 255.0 - inks
    np.testing.assert_allclose(
        shown(tmp_path / "cmyk.tif"), left[..., :3] * left[..., 3:] / 255, atol=1
    )
    # TIFF files hold a and b signed: L = 100 %, a = b = 0 is white.
    lab = np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)
    pil.fromarray(lab, "LAB").save(tmp_path / "lab.tif")
    np.testing.assert_allclose(shown(tmp_path / "lab.tif"), [[[255] * 3, [0] * 3]], atol=2)


def test_long_texts_and_profiles_do_not_make_a_picture_damaged(tmp_path):
    """Pillow's MAX_TEXT_CHUNK is 1 MiB, of what was a few kB in the file."""
    long = zlib.compress(bytes(3 << 20))
    chunks = [(b"iCCP", b"p\0\0" + long), (b"zTXt", b"k\0\0" + long),
              (b"iTXt", b"k\0\1\0\0\0" + long), (b"tEXt", b"k\0short")]  # fmt: skip
    path = tmp_path / "a.png"
    path.write_bytes(png([bytes([1, 2, 3, 250, 251, 252])], 2, 8, 2, *chunks))
    assert shown(path).tolist() == [[[1, 2, 3], [250, 251, 252]]]
    assert picture_size(path) == (2, 1)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_shown(tmp_path, suffix):
    frames = [pil.new("RGB", (4, 4), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert shown(path).reshape(-1, 3).tolist() == [[255, 0, 0]] * 16


def test_what_cannot_be_shown_is_refused_by_name(tmp_path):
    pil.new("1", (20000, 20000)).save(tmp_path / "big.png")
    with pytest.raises(ValueError, match=r"big\.png: too large an image \(.*400000000 pixels"):
        open_image(tmp_path / "big.png", 3)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.png: not a readable image \(an empty file\)"):
        open_image(tmp_path / "empty.png", 3)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg: .*in no format that Pillow knows"):
        open_image(tmp_path / "text.jpg", 3)
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        path = tmp_path / f"cut.{suffix}"
        pil.fromarray(np.kron(COLOUR, np.ones((9, 9, 1), np.uint8))).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"cut\.{suffix}: not a readable image"):
            open_image(path, 3)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        open_image(tmp_path / "gone.png", 3)
