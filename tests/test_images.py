"""Uploads: what is taken, and what is refused before it is decoded."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vtprune.images import open_image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_kinds_are_told_by_content(tmp_path, kind):
    path = tmp_path / "upload.bin"
    Image.new("RGB", (6, 4), (200, 10, 10)).save(path, format=kind)
    image = open_image(str(path))
    assert image.mode == "RGB" and image.size == (6, 4)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_kinds_are_refused_by_content(tmp_path, kind):
    path = tmp_path / "liar.png"
    Image.new("RGB", (6, 4)).save(path, format=kind)
    with pytest.raises(ValueError, match=r"liar\.png.*PNG, JPEG or WebP"):
        open_image(path)


def test_svg_text_and_nothing(tmp_path):
    svg = tmp_path / "drawing.png"
    svg.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    for path in (svg, empty, tmp_path / "missing.png", tmp_path):
        with pytest.raises(ValueError, match=path.name):
            open_image(path)


def test_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (4, 6)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(tmp_path / "a.webp").getpixel((2, 2)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_put_on_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    if mode == "P":
        image = image.convert("P")
        image.info["transparency"] = image.getpixel((0, 0))
    else:
        image = image.convert(mode)
    assert open_image(image).getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = np.full((4, 4), 0x8080, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert open_image(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


def test_truncated_and_corrupt(tmp_path):
    path = tmp_path / "cut.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.jpg is damaged"):
        open_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_on_the_header(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (7000, 12000, 30000):  # ours, Pillow's warning, Pillow's error
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        path = tmp_path / f"bomb{side}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        with pytest.raises(ValueError, match="pixels"):
            open_image(path)
    with pytest.raises(ValueError, match="megapixels"):
        open_image(Image.new("1", (7000, 7000)))


def test_too_many_bytes(tmp_path):
    path = tmp_path / "big.png"
    Image.new("RGB", (4, 4)).save(path)
    with path.open("ab") as file:
        file.truncate(21 * 1024 * 1024)
    with pytest.raises(ValueError, match="20 MB"):
        open_image(path)
