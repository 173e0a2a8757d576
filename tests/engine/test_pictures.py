"""Encodings of pixels against their definitions, a pixel at a time; and what is made of the pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ros_to_parquet import pictures
from ros_to_parquet.pictures import Claim, Meaning, Picture, PictureError

RNG = np.random.default_rng(5)
WIDTH, HEIGHT = 6, 4


def raw(encoding: str, data: bytes, **fields: int) -> dict[str, Any]:
    said = {"width": WIDTH, "height": HEIGHT, "step": 0, "is_bigendian": 0, **fields}
    return {"encoding": encoding, "data": data, **said}


def compressed(file: bytes, said: str) -> dict[str, Any]:
    return {"format": said, "data": file}


def file_of(values: Any, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


# --- raw ---------------------------------------------------------------------------------------------

ORDERS = {"rgb": "rgb", "bgr": "bgr", "rgba": "rgba", "bgra": "bgra", "UC3": "bgr", "UC4": "bgra"}
PLAIN = [
    *((f"{order}{bits}", order, bits // 8) for order in ("rgb", "bgr", "rgba", "bgra") for bits in (8, 16)),
    *((f"{bits}UC{len(order)}", order, bits // 8) for order in ("bgr", "bgra") for bits in (8, 16)),
    *(("mono8", "l", 1), ("8UC1", "l", 1), ("mono16", "l", 2), ("16UC1", "l", 2)),
]


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(("encoding", "order", "item_bytes"), PLAIN)
def test_plain_pixels(encoding: str, order: str, item_bytes: int, padding: int, big: int) -> None:
    """Each number is where image_encodings says; lines are ``step`` apart, the last one may be short."""
    numbers = RNG.integers(0, 256**item_bytes, (HEIGHT, WIDTH, len(order)))
    line_bytes = WIDTH * len(order) * item_bytes
    data = b"".join(
        b"".join(int(number).to_bytes(item_bytes, "big" if big else "little") for number in line.reshape(-1))
        + b"\xee" * padding
        for line in numbers
    )
    data = data[: len(data) - padding]
    message = raw(encoding, data, step=line_bytes + padding, is_bigendian=big)
    values = pictures.decode(message).values
    assert values.dtype == (np.uint8 if item_bytes == 1 else np.uint16)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            said = dict(zip(order, numbers[row, column].tolist(), strict=True))
            wanted = [said[name] for name in ("rgba"[: len(order)] if len(order) > 1 else "l")]
            assert np.atleast_1d(values[row, column]).tolist() == wanted
    assert pictures.claim_of(message) == Claim(WIDTH, HEIGHT, len(order) * item_bytes)


def naive_bayer(cells: Any, pattern: str, top: int, left: int, colour: str) -> int:
    """The mean of the nearest cells of a colour, rounded; beyond an edge the picture is mirrored in it."""
    found: dict[int, list[int]] = {}
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            row, column = abs(top + down), abs(left + right)
            row, column = min(row, 2 * HEIGHT - 2 - row), min(column, 2 * WIDTH - 2 - column)
            if pattern[row % 2 * 2 + column % 2] == colour:
                found.setdefault(abs(down) + abs(right), []).append(int(cells[row, column]))
    nearest = found[min(found)]
    return (2 * sum(nearest) + len(nearest)) // (2 * len(nearest))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_BAND_PIXELS", 2 * WIDTH)  # each two lines computed apart
    cells = RNG.integers(0, 1 << bits, (HEIGHT, WIDTH)).astype(f"<u{bits // 8}")
    values = pictures.decode(raw(f"bayer_{pattern}{bits}", cells.tobytes())).values
    wanted = [
        [[naive_bayer(cells, pattern, row, column, colour) for colour in "rgb"] for column in range(WIDTH)]
        for row in range(HEIGHT)
    ]
    assert values.tolist() == wanted
    assert values.dtype == cells.dtype.newbyteorder("=")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4), (5, 1), (3, 5), (2, 2)])
def test_bayer_of_any_size(width: int, height: int) -> None:
    message = raw("bayer_rggb8", bytes([77] * width * height), width=width, height=height)
    assert (pictures.decode(message).values == 77).all()


def bt601(light: int, u: int, v: int) -> list[float]:
    """BT.601 of limited range: light 16 to 235, colours 16 to 240."""
    bright, blue, red = 255 / 219 * max(light - 16, 0), (u - 128) * 255 / 224, (v - 128) * 255 / 224
    colours = (bright + 1.402 * red, bright - 0.344 * blue - 0.714 * red, bright + 1.772 * blue)
    return [min(255.0, max(0.0, each)) for each in colours]


PACKED: Mapping[str, Callable[[Any, int, int], tuple[int, int, int]]] = {
    order: lambda data, row, column, order=order: (  # type: ignore[misc]
        int(
            data[
                row, column // 2 * 4 + [place for place, name in enumerate(order) if name == "y"][column % 2]
            ]
        ),
        int(data[row, column // 2 * 4 + order.index("u")]),
        int(data[row, column // 2 * 4 + order.index("v")]),
    )
    for order in ("uyvy", "yuyv")
}


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_packed_yuv(encoding: str, order: str, padding: int) -> None:
    data = RNG.integers(0, 256, (HEIGHT, 2 * WIDTH + padding), dtype=np.uint8)
    values = pictures.decode(raw(encoding, data.tobytes(), step=2 * WIDTH + padding)).values
    for row in range(HEIGHT):
        for column in range(WIDTH):
            assert np.allclose(values[row, column], bt601(*PACKED[order](data, row, column)), atol=2)


@pytest.mark.parametrize("encoding", ["nv21", "nv24"])
def test_yuv_in_planes(encoding: str) -> None:
    light = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    share = 2 if encoding == "nv21" else 1
    colours = RNG.integers(0, 256, (HEIGHT // share, WIDTH // share, 2), dtype=np.uint8)
    values = pictures.decode(raw(encoding, light.tobytes() + colours.tobytes())).values
    for row in range(HEIGHT):
        for column in range(WIDTH):
            first, second = colours[row // share, column // share].tolist()
            u, v = (second, first) if encoding == "nv21" else (first, second)
            assert np.allclose(values[row, column], bt601(int(light[row, column]), u, v), atol=2)


def test_an_odd_width_of_yuv_repeats_its_last_colour() -> None:
    values = pictures.decode(raw("yuyv", bytes(range(40)), width=5, step=10)).values
    assert values.shape == (4, 5, 3)
    assert (values[:, 4] == values[:, 3]).all()


def test_a_line_of_half_a_pair_of_yuv_has_no_colour() -> None:
    values = pictures.decode(raw("yuyv", bytes(range(8)), width=1, step=2)).values
    assert values.shape == (4, 1, 3)
    assert not values.any()


# --- depth -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "kind"), [("32FC1", "f4"), ("64FC1", "f8")])
@pytest.mark.parametrize("big", [0, 1])
def test_depth_in_metres_becomes_whole_millimetres(encoding: str, kind: str, big: int) -> None:
    metres = [0.0, 0.0004, 0.0006, 1.2345, 65.535, 70.0, -1.0, np.nan, np.inf, -np.inf, 1e30, 12.0]
    data = np.array(metres, f"{'>' if big else '<'}{kind}").tobytes()
    picture = pictures.decode(raw(encoding, data, height=2, is_bigendian=big))
    assert picture.meaning is Meaning.METRES
    for quality in (0, 90):  # no JPEG has depth
        data, suffix = pictures.encode(picture, quality=quality)
        assert suffix == "png"
        made = opened(data)
        assert made.mode == "I;16"
        wanted = [0, 0, 1, round(1.2345e3), 65535, 65535, 0, 0, 0, 0, 65535, 12000]
        assert np.abs(np.asarray(made).reshape(-1).astype(int) - wanted).max() <= (1 if kind == "f4" else 0)


def test_depth_in_millimetres_stays_as_it_is() -> None:
    values = RNG.integers(0, 65536, (HEIGHT, WIDTH)).astype("<u2")
    picture = pictures.decode(raw("16UC1", values.tobytes()))
    assert picture.meaning is Meaning.MILLIMETRES
    assert (np.asarray(opened(pictures.encode(picture, quality=90)[0])) == values).all()


def test_compressed_depth_of_sixteen_bits() -> None:
    values = RNG.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    message = compressed(bytes(12) + file_of(values), "16UC1; compressedDepth png")
    picture = pictures.decode(message)
    assert (picture.meaning, picture.values.tolist()) == (Meaning.MILLIMETRES, values.tolist())
    assert pictures.claim_of(message) == Claim(WIDTH, HEIGHT, 2, "PNG")
    assert pictures.file_of(message) == file_of(values)
    assert not pictures.is_quantised(message)


def test_compressed_depth_that_is_quantised() -> None:
    """As compressed_depth_image_transport does: inverse depth, its two numbers in front of the PNG."""
    depth, quantum, farthest = np.array([[0.5, 1.0, 2.5, 9.0, np.nan]], np.float32), 100.0, 10.0
    first = quantum * (quantum + 1)
    second = 1 - first / farthest
    inverse = np.where(np.isnan(depth), 0, first / np.nan_to_num(depth, nan=1.0) + second).astype(np.uint16)
    message = compressed(
        struct.pack("<iff", 0, first, second) + file_of(inverse), "32FC1; compressedDepth png"
    )
    picture = pictures.decode(message)
    assert picture.meaning is Meaning.METRES
    assert np.allclose(picture.values[0, :4], depth[0, :4], rtol=0.02)
    assert picture.values[0, 4] == 0
    made = np.asarray(opened(pictures.encode(picture)[0]))
    assert np.allclose(made[0], [500, 1000, 2500, 9000, 0], rtol=0.02)
    assert pictures.is_quantised(message)


# --- compressed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), "RGB"),
        (RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8), "RGBA"),
        (RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8), "L"),
        (RNG.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16), "I;16"),
    ],
)
def test_png_gives_its_pixels_and_takes_them_again(values: Any, mode: str) -> None:
    picture = pictures.decode(compressed(file_of(values), "rgb8; png compressed"))
    assert (picture.values == values).all()
    assert picture.meaning is Meaning.LIGHT
    made = opened(pictures.encode(picture)[0])
    assert made.mode == mode
    assert (np.asarray(made) == values).all()


def test_pictures_of_a_palette_or_of_one_bit() -> None:
    colours = Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 20)).convert("P", palette=Image.Palette.ADAPTIVE)
    out = io.BytesIO()
    colours.save(out, "PNG")
    assert pictures.decode(compressed(out.getvalue(), "png")).values[1, 1].tolist() == [10, 200, 20]
    out = io.BytesIO()
    Image.new("1", (WIDTH, HEIGHT), 1).save(out, "PNG")
    assert (pictures.decode(compressed(out.getvalue(), "png")).values == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "BMP"])
def test_other_formats(kind: str) -> None:
    values = np.full((16, 16, 3), (30, 160, 90), np.uint8)
    picture = pictures.decode(compressed(file_of(values, kind), kind.lower()))
    assert np.allclose(picture.values, values, atol=8)


def test_tiff_of_metres() -> None:
    values = np.array([[1.5, 2.25]], np.float32)
    picture = pictures.decode(compressed(file_of(values, "TIFF"), "32FC1; tiff compressed 32FC1"))
    assert (picture.meaning, picture.values.tolist()) == (Meaning.METRES, [[1.5, 2.25]])


# --- what is made of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("item_bytes", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("width", "height"), [(WIDTH, HEIGHT), (1, 1), (1, 5), (7, 1)])
def test_what_is_written_as_png(channels: int, item_bytes: int, width: int, height: int) -> None:
    """By the PNG specification: a tiny reader of the one filter that the writer uses."""
    shape = (height, width, channels)[: 2 if channels == 1 else 3]
    values = RNG.integers(0, 256**item_bytes, shape).astype(f"u{item_bytes}")
    data, suffix = pictures.encode(Picture(values, Meaning.LIGHT))
    assert suffix == "png"
    made = opened(data)  # checksums and all
    assert made.size == (width, height)
    if item_bytes == 1 or channels == 1:  # the others Pillow opens with 8 bits
        assert (np.asarray(made) == values).all()
    size = struct.unpack(">I", data[33:37])[0]
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8).reshape(height, -1)
    assert set(lines[:, 0].tolist()) == {1}
    samples = lines[:, 1:].reshape(height, width, channels * item_bytes)
    samples = np.cumsum(samples, axis=1, dtype=np.uint8).copy().view(f">u{item_bytes}")
    assert (samples.reshape(shape) == values).all()


def test_jpeg_is_of_eight_bits_without_alpha() -> None:
    deep = np.full((16, 16, 4), 200 << 8, np.uint16)
    data, suffix = pictures.encode(Picture(deep, Meaning.LIGHT), quality=90)
    made = opened(data)
    assert (suffix, made.format, made.mode) == ("jpg", "JPEG", "RGB")
    assert np.allclose(np.asarray(made), 200, atol=3)
    grey, suffix = pictures.encode(Picture(np.full((16, 16), 7, np.uint8), Meaning.LIGHT), quality=90)
    assert (suffix, opened(grey).mode) == ("jpg", "L")
    thermal, suffix = pictures.encode(Picture(np.full((4, 4), 3000, np.uint16), Meaning.LIGHT), quality=90)
    assert (suffix, opened(thermal).getpixel((0, 0))) == ("png", 3000)


def test_better_quality_takes_more_bytes() -> None:
    noise = Picture(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8), Meaning.LIGHT)
    sizes = [len(pictures.encode(noise, quality=quality)[0]) for quality in (30, 60, 95)]
    assert sizes == sorted(set(sizes))


def test_light_is_smoothed_and_depth_is_not() -> None:
    values = np.tile(np.array([0, 200], np.uint8), (8, 4))
    small = pictures.resized(Picture(values, Meaning.LIGHT), (4, 4)).values
    assert np.allclose(small, 100, atol=40)
    depth = np.tile(np.array([0, 9000], np.uint16), (8, 4))
    small = pictures.resized(Picture(depth, Meaning.MILLIMETRES), (4, 4)).values
    assert small.shape == (4, 4)
    assert set(small.reshape(-1).tolist()) <= {0, 9000}
    for deep in (np.full((8, 8), 40_000, np.uint16), np.full((8, 8, 3), 40_000, np.uint16)):
        small = pictures.resized(Picture(deep, Meaning.LIGHT), (3, 5)).values
        assert small.dtype == np.uint16
        assert small.shape == (5, 3, *deep.shape[2:])
        assert (small == 40_000).all()


def test_a_jpeg_that_is_made_smaller_is_decoded_no_larger_than_needed() -> None:
    values = np.full((800, 1200, 3), (10, 90, 200), np.uint8)
    message = compressed(file_of(values, "JPEG"), "jpeg")
    picture = pictures.decode(message, wanted=(150, 100))
    assert (picture.width, picture.height) == (150, 100)
    assert np.allclose(picture.values, values[0, 0], atol=6)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (raw("rgb8", b"123"), "its 3 bytes are not 4 lines of 18, 18 in each used"),
        (raw("rgb8", bytes(72), step=17), "lines of 17, 18 in each used"),
        (raw("rgb8", bytes(72), width=100_000, height=100_000), "its 72 bytes are not 100000 lines"),
        (raw("rgb8", b"", height=0), "it has no pixels"),
        (raw("32FC3", bytes(1000)), "encoding '32FC3' is not known here"),
        (raw("bayer_rggb12", bytes(1000)), "encoding 'bayer_rggb12' is not known here"),
        (raw("my secret\n", bytes(1000)), "^encoding of another name is not known here$"),
        (compressed(b"", "x" * 1_000_000), "^of another name: cannot identify it as a picture$"),
        (raw("nv21", bytes(24)), "its 24 bytes are not 4 lines of 6 and as many colours"),
        (raw("16SC1", bytes(48)), "its numbers have a sign"),
        (compressed(b"no picture", "jpeg"), "'jpeg': cannot identify it as a picture"),
        (compressed(b"", ""), "without a name: cannot identify it as a picture"),
        (compressed(file_of(np.zeros((40, 40), np.uint8))[:-20], "png"), "'png': "),
        (compressed(file_of(np.zeros((40, 40, 3), np.uint8), "JPEG")[:-60], "jpeg"), "'jpeg': "),
        (compressed(bytes(20), "16UC1; compressedDepth rvl"), "RVL is not known here"),
        (
            compressed(bytes(12) + file_of(np.zeros((4, 4), np.uint8)), "32FC1; compressedDepth png"),
            "not of 16",
        ),
        (
            {"encoding": "rgb8", "width": 1, "height": 1, "step": "3", "data": b"123"},
            "no step that is an integer",
        ),
    ],
)
def test_what_is_no_picture_says_why(message: dict[str, Any], why: str) -> None:
    with pytest.raises(PictureError, match=why):
        pictures.claim_of(message)
        pictures.encode(pictures.decode(message))


def test_a_file_that_is_cut_off_is_found_without_its_pixels() -> None:
    noise = RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG"):
        whole = file_of(noise, kind)
        pictures.check_file(compressed(whole, kind))
        for cut in (len(whole) // 2, len(whole) - 100):
            with pytest.raises(PictureError):
                pictures.check_file(compressed(whole[:cut], kind))


def test_what_is_shown_is_of_eight_bits() -> None:
    values = np.array([[0, 1000], [2000, 3000]], "<i2")
    message = raw("16SC1", values.tobytes(), width=2, height=2)
    shown = pictures.shown(pictures.decode(message))
    assert (shown.shape, shown.dtype) == ((2, 2, 3), np.uint8)
    assert shown[0, 0, 0] == 0
    assert shown[0, 1, 0] < shown[1, 0, 0] < shown[1, 1, 0]
    none = pictures.shown(Picture(np.full((2, 2), np.nan, np.float32), Meaning.METRES))
    assert not none.any()
