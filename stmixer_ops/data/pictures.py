"""Picture files as a viewer shows them: upright, without transparency, in 8 bits.

Orientation: the EXIF tag is followed. Transparency: the picture is laid on white, in training and
in ``stmixer run`` alike. Grey of more than 8 bits is scaled by its full range. Of animations the
first frame is taken. Colour profiles are not applied.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import user_path
from .._optional import require

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
# Fraction of the shorter side that the central crop of larger pictures keeps.
CROP_FRACTION = 0.875
_ORIENTATION = 0x0112  # EXIF tag; its values 2 to 8 as names of Image.Transpose
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_PNG, _COMPRESSED = b"\x89PNG\r\n\x1a\n", (b"zTXt", b"iTXt", b"iCCP")
# What may be white in pictures of 32-bit integers or floats, which do not say it themselves.
_WHITE = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}


def open_image(path: str | Path, in_channels: int) -> Image:
    """The picture in ``path``, in colour (mode RGB) or with ``in_channels=1`` in grey (mode L).

    Integers and floats of 32 bits do not say what white is: it is taken to be 1 (floats alone),
    255 or 65535, the smallest of them that no value exceeds.

    Raises:
        OSError: the file cannot be read.
        ValueError: naming the file: not a picture, damaged, or of more pixels than Pillow's limit
            (``PIL.Image.MAX_IMAGE_PIXELS``, doubled).
    """
    with _opened(user_path(path)) as image:
        return as_shown(image).convert("RGB" if in_channels == 3 else "L")


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height, as stored; raises what :func:`open_image` would, as far as the first bytes
    of the file tell."""
    path = user_path(path)
    try:
        with _opened(path, whole=False) as image:
            return image.size
    except ValueError:
        with _opened(path) as image:
            return image.size


@contextmanager
def _opened(path: Path, whole: bool = True) -> Iterator[Image]:
    """The picture, opened and not yet decoded; errors name the file."""
    pil = require("PIL.Image", "train", f"reading {path}")
    # One read instead of the many small ones of PIL.
    with io.BytesIO(_plain_png(path.read_bytes())) if whole else open(path, "rb") as content:
        try:
            with pil.open(content) as image:
                yield image
        except pil.UnidentifiedImageError:
            empty = path.stat().st_size == 0
            what = "an empty file" if empty else "in no format that Pillow knows"
            raise ValueError(f"{path}: not a readable image ({what})") from None
        except pil.DecompressionBombError as error:
            raise ValueError(f"{path}: too large an image ({error})") from error
        except Exception as error:  # damaged files make Pillow raise nearly anything
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path}: not a readable image ({reason})") from error


def _plain_png(content: bytes) -> bytes:
    """A PNG file without compressed texts and colour profiles: Pillow refuses long ones, and takes
    the picture for damaged. Other files as they are."""
    if not content.startswith(_PNG) or not any(name in content for name in _COMPRESSED):
        return content
    pieces, position = [_PNG], len(_PNG)
    while position < len(content):  # chunks: size, name, that many bytes, checksum
        size = int.from_bytes(content[position : position + 4], "big")
        end = position + 12 + size
        if content[position + 4 : position + 8] not in _COMPRESSED:
            pieces.append(content[position:end])
        position = end
    return b"".join(pieces)


def as_shown(image: Image) -> Image:
    """A picture just opened: upright, laid on white, in a mode of 8 bits a channel.

    Raises:
        ValueError: grey values that no known scale holds.
    """
    clear = _clear_value(image)
    image.load()
    image = _upright(image)
    if image.mode[0] in "IF":
        image = _eight_bits(image, clear)
    elif image.mode == "LAB":
        image = _from_lab(image)
    elif clear is not None:
        image.info["transparency"] = clear
    if image.mode == "La":  # premultiplied; has no conversion of its own to RGBA
        image = image.convert("LA")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "RGBa"):
        pil = require("PIL.Image", "train", "reading images")
        white = pil.new("RGBA", image.size, BACKGROUND)
        image = pil.alpha_composite(white, image.convert("RGBA"))
    return image


def _clear_value(image: Image) -> Any:
    """The value that stands for transparent, in the depth in which Pillow gives the pixels.

    PNG files state it in their own depth, and Pillow leaves it so.
    """
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    depth = tiles[0][3] if tiles else None
    if isinstance(clear, int) and depth in ("L;2", "L;4"):
        return clear * {"L;2": 85, "L;4": 17}[depth]
    if isinstance(clear, tuple) and depth == "RGB;16B":
        return tuple(value >> 8 for value in clear)
    return clear


def _upright(image: Image) -> Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data do not keep a viewer from showing the picture
        turn = None
    if turn is None:
        return image
    pil = require("PIL.Image", "train", "turning images")
    return image.transpose(getattr(pil.Transpose, turn))


def _eight_bits(image: Image, clear: int | None) -> Image:
    """Grey of 16 or 32 bits to ``L``, or to ``LA`` where the value ``clear`` is transparent."""
    pil = require("PIL.Image", "train", "reading images")
    pixels = np.asarray(image).astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    scales = _WHITE.get(image.mode, (65535.0,))
    white = next((scale for scale in scales if low >= 0 and high <= scale), None)
    if white is None:
        raise ValueError(
            f"grey values must lie from 0 to {' or '.join(f'{s:g}' for s in scales)}, "
            f"got {low:g} to {high:g}"
        )
    grey = pil.fromarray(np.rint(pixels * (255 / white)).astype(np.uint8))
    if clear is not None:
        grey.putalpha(pil.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
    return grey


def _from_lab(image: Image) -> Image:
    cms = require("PIL.ImageCms", "train", "reading an image in CIELAB")
    lab, srgb = cms.createProfile("LAB"), cms.createProfile("sRGB")
    return cms.profileToProfile(image, lab, srgb, outputMode="RGB")


def fit(image: Image, size: int) -> Image:
    """Scale the shorter side to ``size / CROP_FRACTION`` and cut out the central square."""
    if image.size == (size, size):
        return image
    pil = require("PIL.Image", "train", "resizing images")
    width, height = image.size
    scale = size / CROP_FRACTION / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    scaled = image.resize((width, height), pil.Resampling.BICUBIC)
    return scaled.crop((left, top, left + size, top + size))


def to_array(image: Image) -> np.ndarray:
    """uint8 ``[C, H, W]``."""
    pixels = np.array(image, dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).copy()


def to_tensor(image: Image) -> torch.Tensor:
    """uint8 ``[C, H, W]``."""
    import torch  # not above: the engine's command reads pictures without it

    return torch.from_numpy(to_array(image))
