"""Images: the pixels that PIL would show, the file itself where that is exact, and no damage passed on."""

import contextlib
import io
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raypipe.media.decode import DecodeRequest, decode
from raypipe.media.fault import MediumError
from raypipe.media.image import read_image
from raypipe.media.rendition import load_frame, store_frame
from raypipe.records import Medium, MediumKind, Reason
from raypipe.settings import Rendition, Sampling
from tests.support import reference_data
from tests.support.clips import number_of, picture

GRAIN = np.random.default_rng(3)
JPEG = Rendition(short_side=300)
LOSSLESS = Rendition(short_side=300, codec="lossless")


def noisy(size: tuple[int, int] = (160, 120), channels: int = 3) -> np.ndarray:
    base = np.asarray(picture(341, size).resize(size)).astype(float)[..., :1].repeat(channels, axis=2)
    return (base + 25 * GRAIN.normal(size=base.shape)).clip(0, 255).astype(np.uint8)


def image(file: Path, rendition: Rendition = LOSSLESS, **more) -> Medium:
    return decode(
        DecodeRequest("k", MediumKind.IMAGE, str(file.parent), file.name, Sampling(), rendition, **more)
    )


def saved(file: Path, shown: Image.Image, form: str = "", **options) -> Path:
    shown.save(file, form or None, **options)
    return file


def fault(file: Path) -> Reason:
    with pytest.raises(MediumError) as raised:
        image(file)
    assert raised.value.detail
    return raised.value.reason


@pytest.mark.parametrize(
    ("form", "holds"),
    [
        ("PNG", "RGB RGBA L LA P 1"),
        ("JPEG", "RGB L 1 CMYK YCbCr"),
        ("TIFF", "RGB RGBA L LA P 1 CMYK YCbCr LAB"),
        ("BMP", "RGB RGBA L P 1"),
        ("GIF", "RGB RGBA L LA P 1"),
        ("WEBP", "RGB RGBA L LA P 1 CMYK"),
        ("JPEG2000", "RGB RGBA L LA"),
        ("PPM", "RGB L 1"),
        ("AVIF", "RGB RGBA L LA P"),
    ],
)
def test_any_mode_of_any_format_is_as_pil_converts_it(tmp_path, form, holds):
    for mode in holds.split():
        file = saved(tmp_path / f"{mode}", Image.fromarray(noisy()).convert(mode), form)
        with Image.open(file) as opened:
            truth = np.asarray(opened.convert("RGB"))
        medium = image(file)
        assert np.array_equal(load_frame(medium.frames[0]), truth), mode
        assert (medium.width, medium.height, medium.evidence) == (160, 120, ("clean",))


def test_a_palette_with_transparency(tmp_path):
    file = saved(tmp_path / "i.png", Image.fromarray(noisy()).convert("P"), transparency=3)
    with Image.open(file) as opened:
        assert np.array_equal(load_frame(image(file).frames[0]), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_not_cut_off(tmp_path, form):
    """PIL's own conversion shows everything above 255 of 65535 as white."""
    deep = np.linspace(0, 65535, 30 * 20).astype(np.uint16).reshape(20, 30)
    file = saved(tmp_path / "i", Image.fromarray(deep), form)
    shown = load_frame(image(file).frames[0])
    assert np.array_equal(shown, np.stack([(deep >> 8).astype(np.uint8)] * 3, axis=2))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_reading_as_rgb_are_refused(tmp_path, kind):
    file = saved(tmp_path / "i.tiff", Image.fromarray(np.ones((4, 5), dtype=kind)))
    assert fault(file) is Reason.MEDIA_UNREADABLE


def test_png_of_48_bits(tmp_path):
    deep = GRAIN.integers(0, 65536, (6, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    head = (5).to_bytes(4, "big") + (6).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (tmp_path / "i.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks))
    assert np.array_equal(load_frame(image(tmp_path / "i.png").frames[0]), (deep >> 8).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(tmp_path, form):
    first, *rest = [picture(n) for n in (37, 38, 39)]
    file = tmp_path / "i"
    first.save(file, form, save_all=True, append_images=rest, duration=50)
    medium = image(file)
    assert number_of(medium.frames[0]) == 37
    assert len(medium.frames) == 1


def test_the_orientation_of_exif_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    medium = image(saved(tmp_path / "i.jpg", Image.fromarray(noisy()), exif=exif))
    assert (medium.width, medium.height) == (160, 120)


@pytest.mark.parametrize("rendition", [JPEG, LOSSLESS], ids=["jpeg", "lossless"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_file_itself_is_kept_where_it_is_smaller_and_exact(tmp_path, form, rendition):
    shown = Image.fromarray(noisy()) if form == "JPEG" else Image.new("RGB", (160, 120), (9, 8, 7))
    options = {"quality": 60} if form == "JPEG" else {"optimize": True}
    file = saved(tmp_path / "i", shown, form, **options)
    medium = image(file, rendition)
    assert len(store_frame(read_image(file, 10**6), rendition)) >= file.stat().st_size
    assert medium.frames[0] == file.read_bytes()
    with Image.open(file) as opened:
        assert np.array_equal(load_frame(medium.frames[0]), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("why", ["larger", "scaled", "another format", "16 bits"])
def test_the_file_itself_is_not_kept(tmp_path, why):
    file, rendition = tmp_path / "i", JPEG
    shown = Image.fromarray(noisy())
    if why == "larger":
        saved(file, shown, "PNG")
    elif why == "scaled":
        saved(file, shown, "JPEG", quality=20)
        rendition = Rendition(short_side=100)
    elif why == "another format":
        saved(file, shown, "WEBP", quality=20)
    else:
        saved(file, Image.fromarray(np.full((120, 160), 40_000, dtype=np.uint16)), "PNG", optimize=True)
        rendition = LOSSLESS
    medium = image(file, rendition)
    assert medium.frames[0] != file.read_bytes()
    assert load_frame(medium.frames[0]).shape[:2] == ((100, 133) if why == "scaled" else (120, 160))
    if why == "16 bits":
        assert set(np.unique(load_frame(medium.frames[0]))) == {40_000 >> 8}


def test_bombs(tmp_path):
    file = saved(tmp_path / "i.png", Image.new("1", (4000, 3000)))
    assert file.stat().st_size < 10_000
    with pytest.raises(MediumError) as raised:
        image(file, max_pixels=11_999_999)
    assert raised.value.reason is Reason.IMAGE_TOO_LARGE
    assert image(file, max_pixels=12_000_000)


@pytest.mark.parametrize("form", ["EPS", "TGA", "PCX"])
def test_formats_that_are_not_opened(tmp_path, form):
    assert fault(saved(tmp_path / "i", Image.fromarray(noisy((32, 32))), form)) is Reason.MEDIA_UNREADABLE


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_image_is_refused(tmp_path, form, share):
    file = saved(tmp_path / "i", Image.fromarray(noisy()), form)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert fault(file) in (Reason.MEDIA_UNREADABLE, Reason.FRAMES_DAMAGED)


def test_every_wrong_byte_of_a_png_is_found(tmp_path):
    """Of the last chunks too, which PIL does not look at; the two exceptions say nothing about pixels."""
    file = saved(tmp_path / "i.png", Image.fromarray(noisy((40, 30))), pnginfo=None)
    good = file.read_bytes()
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        file.write_bytes(bad)
        assert fault(file) in (Reason.MEDIA_UNREADABLE, Reason.FRAMES_DAMAGED, Reason.IMAGE_TOO_LARGE), place
    for cut in range(1, 13):
        file.write_bytes(good[:-cut])
        assert fault(file) is Reason.MEDIA_UNREADABLE
    file.write_bytes(good + b"what follows the end")
    assert image(file)


def harm(data: bytes, how: str, dice: random.Random) -> bytes:
    start = data.rindex(b"\xff\xda") + 20
    place = dice.randrange(start, len(data) - 4200)
    if how == "zeros":
        return data[:place] + bytes(4096) + data[place + 4096 :]
    if how == "noise":
        return data[:place] + dice.randbytes(4096) + data[place + 4096 :]
    if how == "lost":
        return data[:place] + data[place + 300 :]
    return data[:place] + b"\xff\xd9"


@pytest.mark.parametrize(("how", "least"), [("zeros", 5), ("noise", 15), ("lost", 13), ("cut but ended", 15)])
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 90, "restart_marker_rows": 1}], ids=str)
def test_large_damage_of_a_jpeg_is_mostly_found(tmp_path, how, least, options):
    """PIL alone shows nearly all of these without a word; JPEG has no checksum that tells them all."""
    shown = smooth((400, 300))
    good = saved(tmp_path / "good.jpg", Image.fromarray(shown), **options).read_bytes()
    silent = refused = 0
    for seed in range(15):
        bad = harm(good, how, random.Random(seed))
        (tmp_path / "i.jpg").write_bytes(bad)
        with contextlib.suppress(OSError):
            Image.open(io.BytesIO(bad)).convert("RGB")
            silent += 1
        with contextlib.suppress(MediumError):
            image(tmp_path / "i.jpg")
            continue
        refused += 1
    assert refused >= least
    assert silent >= (1 if how == "noise" else 15)


def smooth(size: tuple[int, int]) -> np.ndarray:
    """Shapes and a little grain, as a photograph has."""
    x, y = np.meshgrid(np.linspace(0, 9, size[0]), np.linspace(0, 7, size[1]))
    waves = np.stack([np.sin(x) + np.cos(y), np.sin(x * y), np.cos(x - y)], axis=2)
    return (128 + 50 * waves + 12 * GRAIN.normal(size=waves.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (17, 33), (300, 8), (161, 121)], ids=str)
def test_a_good_jpeg_of_any_make_is_not_called_damaged(tmp_path, mode, size):
    pixels = Image.fromarray(GRAIN.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)).convert(mode)
    for options in (
        {},
        {"quality": 1},
        {"quality": 100},
        {"progressive": True},
        {"optimize": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"restart_marker_blocks": 3},
        {"progressive": True, "restart_marker_rows": 1},
        {"icc_profile": bytes(70_000)},
    ):
        file = saved(tmp_path / "i.jpg", pixels, **options)
        with Image.open(file) as opened:
            truth = np.asarray(opened.convert("RGB"))
        assert np.array_equal(load_frame(image(file).frames[0]), truth), options
    file.write_bytes(file.read_bytes() + b"what follows the end" * 50)
    assert image(file)


def test_real_images_are_good():
    files = [p for p in reference_data("real").rglob("*") if p.suffix in (".jpg", ".png")]
    assert files
    for file in files:
        with Image.open(file) as opened:
            size = opened.size
        medium = image(file, Rendition())
        assert (medium.width, medium.height) == size
