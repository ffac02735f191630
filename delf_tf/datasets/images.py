"""The only opener of image files: decode, turn upright by EXIF, crop.

What comes out is always uint8 RGB, whatever went in:
  * formats: JPEG (the first picture of an MPO), PNG, WebP, GIF and BMP; the first frame of an
    animation. The content decides, not the file's name.
  * greyscale is repeated over the channels; of 16-bit samples the high byte is kept, in grey as in
    colour; CMYK is converted without its colour profile (no profile is ever applied).
  * transparency is laid over white.

Files are hostile until shown otherwise: the size is read from the header and held against
`max_pixels` and `MAX_DECODED_BYTES` before anything is allocated or decoded, and every fault is an
`ImageError`. There is one copy of the pixels as they were decoded and one as they are returned; a
crop or a turn by EXIF makes one more of the latter when the former has gone.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from delf_tf.checks import InputError, invalid, require
from delf_tf.types import Box, ImageRef

MAX_PIXELS = 178_956_970
MAX_FILE_BYTES = 1 << 29
# What the decoder and the result take together: the largest number of pixels as plain RGB.
MAX_DECODED_BYTES = 7 * MAX_PIXELS
# A progressive JPEG of a few KB can ask for tens of thousands of passes over a huge image; the
# usual ten over the largest image are well within the second limit.
_MAX_JPEG_SCANS = 1000
_MAX_SCANNED_PIXELS = 16 * MAX_PIXELS
_TILE_SIDE_PX = 1024
_EXIF_ORIENTATION = 0x0112

ImageSource = Union[ImageRef, str, "os.PathLike[str]"]


class ImageError(InputError):
    """A file or upload that is not a usable image; its message is the one-line reason."""


def read_image(image: ImageSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image file.

    Args:
      image: a reference, of which the box is applied, or a path.
      max_pixels: largest height times width that is decoded, before cropping.

    Returns:
      uint8 [H, W, 3], RGB, upright, cropped to the reference's box (its edges rounded to whole
      pixels, halves to even, and clipped to the image).

    Raises:
      ImageError: the file is missing, empty, no image, damaged, cut off, or too large, or the box
        lies outside it.
    """
    ref = _as_ref(image)
    return _decode(_read_file(ref.path), str(ref.path), ref.box, max_pixels)


def read_image_bytes(
    data: bytes, *, max_pixels: int = MAX_PIXELS, name: str = "upload"
) -> np.ndarray:
    """Decodes an image held in memory, such as an upload.

    Args:
      data: the content of an image file.
      max_pixels: as in `read_image`.
      name: how errors call it.

    Returns:
      uint8 [H, W, 3], RGB, upright.

    Raises:
      ImageError: as for `read_image`.
    """
    return _decode(bytes(data), name, None, max_pixels)


def image_size(image: ImageSource, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns the (height, width) that `read_image` would give, from the header alone.

    A PNG without EXIF ahead of its pixels is decoded after all, for it may follow them.

    Raises:
      ImageError: as for `read_image`, but damage behind the header goes unseen.
    """
    ref = _as_ref(image)
    opened = _open(_read_file(ref.path), str(ref.path), max_pixels)
    height, width = opened.height, opened.width
    if _orientation(opened) >= 5:
        height, width = width, height
    y0, x0, y1, x1 = _whole_box(ref.box, height, width, str(ref.path))
    return y1 - y0, x1 - x0


def to_jpeg(image: np.ndarray, max_side: int) -> bytes:
    """Returns a uint8 RGB image [H, W, 3] as a JPEG file of at most `max_side` pixels a side."""
    small = Image.fromarray(image)
    small.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def _as_ref(image: ImageSource) -> ImageRef:
    return image if isinstance(image, ImageRef) else ImageRef(str(image), Path(image))


def _read_file(path: Path) -> bytes:
    try:
        status = path.stat()
        # Opening a pipe or a device could block for ever.
        require(
            stat.S_ISREG(status.st_mode),
            "An image must be a regular file.",
            error=ImageError,
            path=path,
        )
        require(
            status.st_size <= MAX_FILE_BYTES,
            f"An image file must have at most {MAX_FILE_BYTES} bytes.",
            error=ImageError,
            path=path,
            num_bytes=status.st_size,
        )
        return path.read_bytes()
    except FileNotFoundError:
        raise invalid("An image file must exist.", error=ImageError, path=path) from None
    except InputError:
        raise
    except (OSError, ValueError) as fault:
        raise _unreadable(str(path), fault) from None


def _decode(data: bytes, name: str, box: Box | None, max_pixels: int) -> np.ndarray:
    opened = _open(data, name, max_pixels)
    try:
        opened.load()
    except Exception as fault:  # Decoders of damaged files raise nearly everything.
        raise _unreadable(name, fault) from None
    # A GIF's frame or a WebP's canvas may differ from its header.
    _check_size(opened.height, opened.width, name, max_pixels)
    orientation, pixels = _orientation(opened), _to_rgb(opened)
    del opened
    pixels = _upright(pixels, orientation)
    y0, x0, y1, x1 = _whole_box(box, pixels.shape[0], pixels.shape[1], name)
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])


def _open(data: bytes, name: str, max_pixels: int) -> ImageFile.ImageFile:
    """Parses the header; decodes nothing."""
    require(bool(data), "An image file must not be empty.", error=ImageError, path=name)
    opener = next((opener for fits, opener in _FORMATS if fits(data)), None)
    if opener is None:
        raise invalid(
            "An image must be a JPEG, PNG, WebP, GIF or BMP file.",
            error=ImageError,
            path=name,
            first_bytes=data[:8],
        )
    try:
        if opener is WebPImageFile:
            # Its opener allocates the whole canvas.
            _check_size(*_webp_size(data), name, max_pixels)
        opened = opener(io.BytesIO(data))
    except InputError:
        raise
    except Exception as fault:
        raise _unreadable(name, fault) from None
    _check_size(opened.height, opened.width, name, max_pixels)
    num_scans = data.count(b"\xff\xda") if opener is JpegImageFile else 0
    _check_scans(num_scans, opened.height * opened.width, name)
    _check_bytes(opened, num_scans, name)
    return opened


# The formats' own openers: Image.open would warn by a process-wide limit of its own.
_FORMATS: tuple[tuple[Callable[[bytes], bool], type[ImageFile.ImageFile]], ...] = (
    (lambda data: data.startswith(b"\xff\xd8\xff"), JpegImageFile),
    (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), PngImageFile),
    (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", WebPImageFile),
    (lambda data: data[:6] in (b"GIF87a", b"GIF89a"), GifImageFile),
    (lambda data: data[:2] == b"BM", BmpImageFile),
)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Returns the (height, width) of the first chunk's header (RFC 9649, section 2.5 to 2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return height, width


def _check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    require(
        height > 0 and width > 0 and height * width <= max_pixels,
        f"An image must have 1 to {max_pixels} pixels.",
        error=ImageError,
        path=name,
        height=height,
        width=width,
    )


def _check_scans(num_scans: int, num_pixels: int, name: str) -> None:
    allowed = min(_MAX_JPEG_SCANS, _MAX_SCANNED_PIXELS // num_pixels)
    require(
        num_scans <= allowed,
        f"A JPEG of so many pixels must have at most {allowed} scans.",
        hint="Save it as a baseline JPEG.",
        error=ImageError,
        path=name,
        scans=num_scans,
        pixels=num_pixels,
    )


def _check_bytes(opened: ImageFile.ImageFile, num_scans: int, name: str) -> None:
    """Refuses what would take too much memory while it is decoded."""
    decoded, result, decoder = 1 if opened.mode in ("1", "L", "P") else 4, 3, 0
    if num_scans > 2 or opened.info.get("progressive"):
        # All scans' coefficients, 16 bits each, until it has ended; a camera's preview is a scan.
        decoder = 2 * len(opened.getbands()) - result
    elif isinstance(opened, WebPImageFile):
        # A canvas for the frame, and what is kept of it for the next.
        decoder = 8
    num_bytes = (decoded + result + max(decoder, 0)) * opened.height * opened.width
    require(
        num_bytes <= MAX_DECODED_BYTES,
        f"An image must take at most {MAX_DECODED_BYTES} bytes while it is decoded.",
        hint="Make it smaller, or save it as a baseline JPEG or a PNG.",
        error=ImageError,
        path=name,
        height=opened.height,
        width=opened.width,
        num_bytes=num_bytes,
    )


def _orientation(opened: Image.Image) -> int:
    """Returns EXIF's 1 to 8; 1 where there is none or it makes no sense."""
    try:
        value = opened.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Broken EXIF does not make the picture unusable.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a view of `pixels` [H, W, 3] that undoes an EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _to_rgb(opened: Image.Image) -> np.ndarray:
    """Returns uint8 [H, W, 3], converted piece by piece: a whole copy a step took gigabytes."""
    pixels = np.empty((opened.height, opened.width, 3), np.uint8)
    for top in range(0, opened.height, _TILE_SIDE_PX):
        for left in range(0, opened.width, _TILE_SIDE_PX):
            bottom = min(top + _TILE_SIDE_PX, opened.height)
            right = min(left + _TILE_SIDE_PX, opened.width)
            tile = opened.crop((left, top, right, bottom))
            pixels[top:bottom, left:right] = _tile_to_rgb(tile)
    return pixels


def _tile_to_rgb(tile: Image.Image) -> np.ndarray:
    if tile.mode.startswith("I"):
        grey = np.asarray(tile).astype(np.int64) >> 8
        return np.clip(grey, 0, 255).astype(np.uint8)[..., None]
    if tile.has_transparency_data:
        over = tile.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        tile = Image.alpha_composite(white, over)
    return np.asarray(tile if tile.mode == "RGB" else tile.convert("RGB"))


def _whole_box(box: Box | None, height: int, width: int, name: str) -> tuple[int, int, int, int]:
    if box is None:
        return 0, 0, height, width
    y0, x0, y1, x1 = (round(edge) for edge in box)
    inside = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
    require(
        inside[0] < inside[2] and inside[1] < inside[3],
        "An image's box must hold at least one of its pixels.",
        error=ImageError,
        path=name,
        box=box,
        height=height,
        width=width,
    )
    return inside


def _unreadable(name: str, fault: Exception) -> InputError:
    reason = " ".join(f"{type(fault).__name__}: {fault}".split())
    return invalid(
        "An image file must be whole and readable.", error=ImageError, path=name, reason=reason
    )
