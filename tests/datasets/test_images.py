from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from delf_tf.datasets import images
from delf_tf.datasets.images import ImageError, image_size, read_image, read_image_bytes
from delf_tf.types import ImageRef

# A picture without any symmetry: corner colours tell each orientation apart.
PICTURE = np.zeros((6, 9, 3), np.uint8)
PICTURE[:, :, 0] = np.arange(6)[:, None] * 40
PICTURE[:, :, 1] = np.arange(9) * 28
PICTURE[0, 0] = (255, 255, 255)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(height=60, width=90):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([y * 4, x * 2, 255 - y * 2 - x], axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_reads_every_format_by_content_not_by_name(tmp_path, kind):
    path = tmp_path / "picture.jpg"
    picture = smooth()
    path.write_bytes(encoded(picture, kind))
    got = read_image(path)
    assert got.shape == (60, 90, 3)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert got.flags.writeable
    slack = {"PNG": 0, "BMP": 0, "GIF": 26, "JPEG": 12, "WEBP": 12}[kind]
    assert np.abs(got.astype(int) - np.asarray(picture)).max() <= slack
    assert image_size(path) == (60, 90)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_undone(tmp_path, orientation, kind):
    upright = np.kron(PICTURE, np.ones((8, 8, 1), np.uint8))
    # What a camera stores so that the tag's meaning restores the upright picture (EXIF 2.3, 4.6.4).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: np.rot90(upright, 2),
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, **({"lossless": True} if kind == "WEBP" else {})}
    path = tmp_path / "turned"
    path.write_bytes(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, **options))
    got = read_image(path)
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).mean() <= (6 if kind == "JPEG" else 0)
    assert image_size(path) == upright.shape[:2]


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_senseless_orientation_means_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    data = encoded(Image.fromarray(PICTURE), "PNG", exif=exif)
    np.testing.assert_array_equal(read_image_bytes(data), PICTURE)


def test_damaged_exif_does_not_matter():
    data = encoded(Image.fromarray(PICTURE), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image_bytes(data), PICTURE)


def test_boxes_are_rounded_and_clipped(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(PICTURE), "PNG"))
    ref = ImageRef("a", path, (1.4, -3, 4.6, 3.5))
    np.testing.assert_array_equal(read_image(ref), PICTURE[1:5, 0:4])
    assert image_size(ref) == (4, 4)
    np.testing.assert_array_equal(read_image(ImageRef("a", path, (-9, -9, 99, 99))), PICTURE)
    for box in [(10, 0, 12, 2), (0.1, 0, 0.4, 2), (0, -5, 3, -1)]:
        with pytest.raises(ImageError, match="at least one of its pixels"):
            read_image(ImageRef("a", path, box))


def test_box_is_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(PICTURE, 1))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(stored), "PNG", exif=exif))
    np.testing.assert_array_equal(read_image(ImageRef("a", path, (0, 0, 2, 5))), PICTURE[:2, :5])


def test_greyscale_is_repeated():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    got = read_image_bytes(encoded(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=2))
    black_white = Image.fromarray(grey > 100)
    got = read_image_bytes(encoded(black_white, "PNG"))
    np.testing.assert_array_equal(got[..., 1], (grey > 100) * 255)


def test_16_bit_grey_keeps_the_high_byte():
    deep = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    got = read_image_bytes(encoded(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(got[..., 0], [[0, 0, 1], [128, 254, 255]])
    np.testing.assert_array_equal(got[..., 2], got[..., 0])


def test_16_bit_colour_keeps_the_high_byte():
    values = np.array([[[0x1234, 0xFF00, 0x00FF]]], ">u2")
    data = png(1, 1, b"\0" + values.tobytes(), depth=16)
    np.testing.assert_array_equal(read_image_bytes(data), [[[0x12, 0xFF, 0x00]]])


def test_cmyk_jpeg():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8] = (0, 255, 255, 0)  # red
    pixels[:, 8:] = (255, 255, 0, 0)  # blue
    got = read_image_bytes(encoded(Image.fromarray(pixels, "CMYK"), "JPEG", quality=95))
    assert np.abs(got[8, 2].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(got[8, 13].astype(int) - (0, 0, 255)).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 10, 10, 255)
    pixels[0, 1] = (10, 10, 10, 0)
    image = Image.fromarray(pixels, "RGBA")
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8), "P")
        image.putpalette([10, 10, 10, 200, 0, 0])
        data = encoded(image, "PNG", transparency=1)
    else:
        data = encoded(image.convert(mode), "PNG")
    got = read_image_bytes(data)
    np.testing.assert_array_equal(got[0, 0], (10, 10, 10))
    np.testing.assert_array_equal(got[0, 1], (255, 255, 255))


def test_half_transparent():
    got = read_image_bytes(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"))
    assert got[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    got = read_image_bytes(data)
    assert got.shape == (10, 20, 3)
    assert np.abs(got.astype(int) - (255, 0, 0)).max() < 16


def test_one_pixel_is_legal():
    assert read_image_bytes(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [
        [[1, 2, 3]]
    ]


# Hostile and damaged input.


def png(width, height, raw, depth=8):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("percent", range(0, 100, 10))
def test_cut_off_files_are_refused(tmp_path, kind, percent):
    rng = np.random.default_rng(0)
    whole = encoded(Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)), kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) * percent // 100])
    with pytest.raises(ImageError, match=r"cut\.jpg") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_no_image(tmp_path):
    for content in [b"hello, this is text", b"\xff\xd8", b"%PDF-1.4", b"\0" * 400]:
        path = tmp_path / "text.jpg"
        path.write_bytes(content)
        with pytest.raises(ImageError, match="must be a JPEG, PNG, WebP, GIF or BMP"):
            read_image(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="must not be empty"):
        read_image(path)


def test_things_that_are_no_files(tmp_path):
    with pytest.raises(ImageError, match="must exist"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="regular file"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="regular file"):
        read_image(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="readable"):
        read_image("a\0b")


def test_giant_headers_are_refused_before_decoding():
    with pytest.raises(ImageError, match=r"height=60000, width=60000"):
        read_image_bytes(png(60_000, 60_000, b"\0" * 100))
    jpeg = bytearray(encoded(smooth(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(ImageError, match="height=65000"):
        read_image_bytes(bytes(jpeg))
    canvas = (1 << 24) - 1
    body = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + canvas.to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    with pytest.raises(ImageError, match="height=16777216"):
        read_image_bytes(webp)
    gif = b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + b"\0\0\0;"
    with pytest.raises(ImageError):
        read_image_bytes(gif)


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}]
)
def test_webp_sizes_are_found_in_each_kind_of_header(options):
    data = encoded(smooth(33, 47), "WEBP", **options)
    assert images._webp_size(data) == (33, 47)


def test_pixel_limit_is_the_callers(tmp_path):
    data = encoded(Image.new("RGB", (10, 10)), "PNG")
    assert read_image_bytes(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="1 to 99 pixels"):
        read_image_bytes(data, max_pixels=99)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="1 to 99 pixels"):
        image_size(path, max_pixels=99)


def test_more_pixels_than_pillows_own_limit_give_no_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
    data = encoded(Image.new("L", (1 << 21, 2)), "PNG")
    assert read_image_bytes(data).shape == (2, 1 << 21, 3)


def test_jpeg_of_endless_scans_is_refused():
    data = encoded(smooth(), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    assert read_image_bytes(data).shape == (60, 90, 3)
    with pytest.raises(ImageError, match="at most 1000 scans"):
        read_image_bytes(data[:-2] + scan * 500 + data[-2:])


def test_scans_times_pixels_are_limited(monkeypatch):
    data = encoded(smooth(), "JPEG", progressive=True)
    monkeypatch.setattr(images, "_MAX_SCANNED_PIXELS", 10 * 60 * 90)
    assert read_image_bytes(data).shape == (60, 90, 3)
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match=r"at most 10 scans.*pixels=5400"):
        read_image_bytes(data[:-2] + scan + data[-2:])


@pytest.mark.parametrize(
    ("kind", "mode", "per_pixel", "options"),
    [
        ("PNG", "RGBA", 7, {}),
        ("PNG", "L", 4, {}),
        ("JPEG", "RGB", 7, {}),
        ("JPEG", "RGB", 10, {"progressive": True}),
        ("WEBP", "RGB", 15, {}),
    ],
)
def test_bytes_that_decoding_takes_are_limited(monkeypatch, kind, mode, per_pixel, options):
    data = encoded(smooth().convert(mode), kind, **options)
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", per_pixel * 60 * 90)
    assert read_image_bytes(data).shape == (60, 90, 3)
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", per_pixel * 60 * 90 - 1)
    with pytest.raises(
        ImageError, match=rf"bytes while it is decoded.*num_bytes={per_pixel * 5400}"
    ):
        read_image_bytes(data)


def test_tiles_of_a_picture_make_the_picture(monkeypatch):
    tall = np.random.default_rng(0).integers(0, 256, (61, 9, 4), np.uint8)
    for mode in ("RGB", "RGBA", "LA", "L", "P", "CMYK"):
        data = encoded(Image.fromarray(tall).convert(mode), "JPEG" if mode == "CMYK" else "PNG")
        monkeypatch.setattr(images, "_TILE_SIDE_PX", 100)
        whole = read_image_bytes(data)
        monkeypatch.setattr(images, "_TILE_SIDE_PX", 7)
        np.testing.assert_array_equal(read_image_bytes(data), whole)


def test_transparent_pictures_take_no_further_copies():
    script = (
        "import io, resource\nfrom PIL import Image\nfrom delf_tf.datasets import images\n"
        "file = io.BytesIO()\n"
        "Image.new('LA', (4000, 4000)).save(file, 'PNG', compress_level=1)\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "size += 4000 * 4000 * 9\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "print(images.read_image_bytes(file.getvalue()).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout == "(4000, 4000, 3)\n"


def test_large_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(PICTURE), "PNG"))
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 20)
    with pytest.raises(ImageError, match="at most 20 bytes"):
        read_image(path)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]),
    at=st.integers(0, 10_000),
    replacement=st.binary(min_size=1, max_size=24),
)
def test_any_damage_gives_an_image_or_an_image_error(kind, at, replacement):
    data = bytearray(encoded(smooth(20, 30), kind))
    at %= len(data)
    data[at : at + len(replacement)] = replacement
    try:
        got = read_image_bytes(bytes(data), max_pixels=100_000)
    except ImageError:
        return
    assert got.ndim == 3
    assert got.shape[2] == 3


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_random_bytes_are_refused(data):
    with pytest.raises(ImageError):
        read_image_bytes(data)


def test_real_photographs(shared):
    paths = sorted((shared / "photos" / "images").glob("*.jpg"))[::100]
    assert paths
    for path in paths:
        pixels = read_image(path)
        assert pixels.shape[:2] == image_size(path)
        assert pixels.std() > 5


def test_to_jpeg_keeps_the_form_and_the_limit():
    image = np.zeros((100, 50, 3), np.uint8)
    image[:50] = (200, 30, 30)
    small = images.read_image_bytes(images.to_jpeg(image, 40))
    assert small.shape == (40, 20, 3)
    np.testing.assert_allclose(small[5, 10], (200, 30, 30), atol=6)
    assert images.read_image_bytes(images.to_jpeg(image, 400)).shape == image.shape
