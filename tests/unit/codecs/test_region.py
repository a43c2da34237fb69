"""Files of which a part can be decoded: the same pixels by every decoder, and parts exact to the edge."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from unimatch.codecs import restart, tiles
from unimatch.codecs.decode import decode_image, image_header
from unimatch.codecs.encode import ImageRules, pack_image, png
from unimatch.codecs.huffman import optimal_table
from unimatch.codecs.jpeg_layout import Unsuitable, read_layout
from unimatch.codecs.part import Part
from unimatch.codecs.region import decode_part
from unimatch.errors import DataError
from unimatch.packing import synthetic

SUBSAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
SIZES = [(120, 200), (97, 131), (16, 16), (5, 3), (70, 368)]  # height, width; 368: 23 MCUs, a prime


def scene(height: int, width: int) -> np.ndarray:
    return synthetic.render(height * width, max(height, 40), max(width, 40))[0][:height, :width]


def jpeg(image: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90, *options])
    assert done
    return data.tobytes()


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("sampling", SUBSAMPLINGS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_markers_change_no_pixel_for_any_decoder(sampling: str, height: int, width: int) -> None:
    data = jpeg(scene(height, width), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[sampling])
    made = restart.add_restarts(data)
    layout = read_layout(made)
    assert layout.interval and layout.grid[0] % layout.interval == 0
    assert np.array_equal(decode_image(made, ""), decode_image(data, ""))
    assert np.array_equal(pillow(made), pillow(data))
    assert np.array_equal(simplejpeg.decode_jpeg(made), simplejpeg.decode_jpeg(data))
    assert restart.add_restarts(made) == made  # and again: nothing is left to do


@pytest.mark.parametrize("sampling", SUBSAMPLINGS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_part_of_a_jpeg_is_exact_up_to_its_edge(sampling: str, height: int, width: int) -> None:
    data = jpeg(scene(height, width), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[sampling])
    check_parts(restart.add_restarts(data), decode_image(data, ""))


def check_parts(data: bytes, whole: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    height, width = whole.shape[:2]
    smaller = 0
    for _ in range(60):
        x, y = np.sort(rng.integers(0, width + 1, 2)), np.sort(rng.integers(0, height + 1, 2))
        rect = (int(x[0]), int(y[0]), max(int(x[1]), int(x[0]) + 1), max(int(y[1]), int(y[0]) + 1))
        if rect[2] > width or rect[3] > height:
            continue
        part = decode_part(data, rect, "a:b")
        assert part.covers(rect) and (part.width, part.height) == (width, height), rect
        rows = slice(part.top, part.top + part.pixels.shape[0])
        columns = slice(part.left, part.left + part.pixels.shape[1])
        assert np.array_equal(part.pixels, whole[rows, columns]), rect
        smaller += part.pixels.size < whole.size
    assert smaller > 10 or whole.size < 10000


def test_grey_jpeg_and_jpeg_that_has_markers() -> None:
    image = scene(120, 200)
    for data in (jpeg(image[..., 0]), jpeg(image, cv2.IMWRITE_JPEG_RST_INTERVAL, 7)):
        made = restart.add_restarts(data)
        assert np.array_equal(pillow(made), pillow(data))
        check_parts(made, decode_image(data, ""))
    # Markers that make no columns: the whole image is decoded.
    odd = jpeg(image, cv2.IMWRITE_JPEG_RST_INTERVAL, 7)
    assert decode_part(odd, (0, 0, 9, 9), "").pixels.shape == image.shape


def test_other_jpegs_are_told_and_kept() -> None:
    image = scene(40, 60)
    for data, why in [
        (jpeg(image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "progressive"),
        (jpeg(image)[:100], "cut short|no marker"),
        (jpeg(image)[:-400] + b"\xff\xd9", "damaged"),
    ]:
        with pytest.raises(Unsuitable, match=why):
            restart.add_restarts(data)
    data = jpeg(image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    stored, ext, size, note = pack_image(data, "", ImageRules(fast_decode=True))[:4]
    assert (stored, ext, size) == (data, "jpg", (40, 60))
    assert note == "JPEG without restart markers, progressive or arithmetic coding"
    assert decode_part(data, (0, 0, 9, 9), "").pixels.shape == image.shape


def test_metadata_stays_and_bytes_behind_the_end_go() -> None:
    image = Image.fromarray(scene(40, 60))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", icc_profile=b"profile" * 9, comment=b"by hand")
    made = restart.add_restarts(buffer.getvalue() + b"camera notes")
    assert Image.open(io.BytesIO(made)).info["comment"] == b"by hand"
    assert Image.open(io.BytesIO(made)).info["icc_profile"] == b"profile" * 9
    assert b"camera notes" not in made


def test_huffman_table_by_hand_and_with_a_long_tail() -> None:
    counts = np.zeros(256, np.int64)
    counts[[7, 3, 9]] = 10, 4, 1
    sizes, values = optimal_table(counts)
    assert list(values) == [7, 3, 9] and list(sizes[:4]) == [1, 1, 1, 0]  # 0, 10, 110; 111 is nobody's
    counts[:40] = [int(1.7**n) for n in range(40)]  # depth 40 before codes are shortened to 16 bits
    sizes, values = optimal_table(counts)
    assert sum(sizes) == len(values) == np.count_nonzero(counts) and len(sizes) == 16
    assert sum(count * 2.0 ** -(n + 1) for n, count in enumerate(sizes)) < 1  # a prefix code with room


@pytest.mark.parametrize(("height", "width"), [(300, 420), (128, 256), (7, 5)])
def test_tiles_are_a_tiff_that_pillow_reads(height: int, width: int) -> None:
    image = scene(height, width)
    data = tiles.encode(image)
    assert data == tiles.encode(image.copy())
    assert np.array_equal(pillow(data), image) and np.array_equal(decode_image(data, ""), image)
    header = image_header(data[:300], "")
    assert (header.format, header.width, header.height) == ("tiff", width, height)
    check_parts(data, image)


def test_tiles_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "AVAILABLE", False)
    image = scene(140, 270)
    assert np.array_equal(decode_image(tiles.encode(image), ""), image)


def test_a_damaged_tiff_is_an_error_that_names_the_sample() -> None:
    data = tiles.encode(scene(300, 420))
    for bad in (
        data[:-1],
        data[:1000],
        data[:20],
        data[:-300] + bytes(300),
        data[:40] + bytes(200) + data[240:],
    ):
        for read in (decode_image, lambda data, where: decode_part(data, (0, 0, 420, 300), where)):
            with pytest.raises(DataError, match="^shard:key: "):
                read(bad, "shard:key")


def test_png_is_stored_in_tiles_where_that_is_asked_for() -> None:
    image = scene(60, 90)
    stored, ext, size, note = pack_image(png(image), "", ImageRules(fast_decode=True))[:4]
    assert (ext, size, note) == ("tif", (60, 90), "PNG as TIFF with tiles")
    assert np.array_equal(decode_image(stored, ""), image)
    grey = png(image[..., 0])
    assert pack_image(grey, "", ImageRules(fast_decode=True))[:2] == (grey, "png")


def test_a_wrong_rectangle_gives_the_whole_image() -> None:
    """As of an index that takes the image for a larger one; the loader then tells."""
    image = scene(120, 200)
    for data in (restart.add_restarts(jpeg(image)), tiles.encode(image)):
        assert decode_part(data, (900, 900, 950, 950), "").pixels.shape == image.shape
    assert Part.whole(image).covers((0, 0, 200, 120)) and not Part.whole(image).covers((0, 0, 201, 120))
