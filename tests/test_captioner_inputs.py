"""What a Python caller may give a captioner, and what is said of anything else."""

from __future__ import annotations

import gc
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import altogether_rt
from altogether_rt import Captioner, CaptionParams, CaptionRequest
from altogether_rt.data.inputs import ImageLike, as_rgb
from altogether_rt.errors import (
    AltogetherError,
    BundleError,
    ConfigError,
    ImageError,
    MissingDependencyError,
)
from tests.made_captioner import made_captioner, made_images

pytestmark = pytest.mark.lean


def gradient() -> Image.Image:
    """40 x 24 pixels that look like none of their rotations."""
    x, y = np.meshgrid(np.arange(40), np.arange(24))
    return Image.fromarray(np.stack([6 * x, 10 * y, 3 * x + 2 * y], axis=2).astype(np.uint8))


def pixels(image: ImageLike) -> tuple[tuple[int, int], bytes]:
    rgb = as_rgb(image)
    return rgb.size, rgb.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_opened_with_pillow_is_turned_upright(
    tmp_path: Path, orientation: int
) -> None:
    """As its path is: a telephone stores the way it was held, and Pillow does not apply it."""
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient().save(path, exif=exif)
    with Image.open(path) as opened:
        assert pixels(opened) == pixels(path)
    assert (pixels(path) == pixels(gradient())) == (orientation == 1)


@pytest.mark.parametrize(
    "name",
    ["exif_landscape_6.jpg", "exif_portrait_8.jpg", "made_cmyk.jpg", "pil_rgb_trns.png"],
)
def test_real_files_opened_with_pillow_are_those_of_their_paths(
    shared_data: Path, name: str
) -> None:
    path = shared_data / "odd" / name
    with Image.open(path) as opened:
        assert pixels(opened) == pixels(path)


def _cut(whole: bytes) -> Image.Image:
    return Image.open(io.BytesIO(whole[: len(whole) // 2]))


def _closed() -> Image.Image:
    image = gradient()
    image.close()
    return image


def _png() -> bytes:
    buffer = io.BytesIO()
    gradient().resize((400, 240)).save(buffer, "PNG")
    return buffer.getvalue()


class _Failing(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: Image.new("RGB", (0, 5)), "damaged"),
        (lambda: np.zeros((0, 5, 3), np.uint8), "damaged"),
        (lambda: _cut(_png()), "truncated"),
        (_closed, "damaged"),
        (lambda: "https://example.org/a.jpg", "not_a_file"),
        (lambda: "data:image/png;base64,iVBORw0KGgo=", "not_a_file"),
        (_Failing, "unreadable"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_row_in_every_form(
    make: Callable[[], Any], kind: str
) -> None:
    captioner, images = made_captioner(2), made_images(2)
    rows = captioner.caption([images[0], make(), images[1]], on_error="row")
    error = rows[1]
    assert isinstance(error, ImageError)
    assert error.kind == kind
    assert [rows[0], rows[2]] == captioner.caption(images)
    with pytest.raises(ImageError):
        captioner.caption(make())


def test_an_error_that_is_kept_does_not_keep_the_bytes_of_its_image() -> None:
    """As the frames of its traceback would, and those of its causes."""

    class Bytes(bytearray):
        """A weak reference to it is possible."""

    seen: list[weakref.ref[Bytes]] = []

    def broken() -> Iterator[Bytes]:
        for _ in range(3):
            image = Bytes(_png()[:400])
            seen.append(weakref.ref(image))
            yield image

    rows = made_captioner().caption(broken(), on_error="row")
    assert [row.kind for row in rows if isinstance(row, ImageError)] == ["truncated"] * 3
    gc.collect()
    assert [reference() for reference in seen] == [None] * 3
    error: BaseException | None = rows[0] if isinstance(rows[0], ImageError) else None
    while error is not None:
        assert error.__traceback__ is None
        error = error.__cause__ or error.__context__


class _OwnPath:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_paths_and_bytes_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png())
    captioner = made_captioner()
    expected = captioner.caption(path)
    for image in (_OwnPath(path), bytearray(_png()), memoryview(_png())):
        assert captioner.caption(image) == expected
        assert captioner.caption([image]) == expected


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ({"a.png": "an alt"}, "type dict is not an image"),
        ([{"bytes": b"", "path": None}], "type dict is not an image"),
        (io.StringIO("text"), "mode 'rb'"),
        ([io.StringIO("text")], "mode 'rb'"),
        (np.zeros((3, 8, 9), np.uint8), r"channels last, \.transpose\(1, 2, 0\)"),
        (np.zeros((8, 9), np.uint8), r"of shape \(8, 9\): convert"),
        (np.zeros((8, 9, 3), np.float32), r"are float32 of shape \(8, 9, 3\): convert"),
    ],
)
def test_what_is_no_image_is_told_apart(mistake: Any, says: str) -> None:
    with pytest.raises(AltogetherError, match=says):
        made_captioner().caption(mistake)


@pytest.mark.parametrize(
    ("alt", "says"),
    [
        ({"alt": "an alt"}, r"a list of texts, or none, and one is \{'alt': 'an alt'\}"),
        (float("nan"), "one is nan"),  # of a table
        (["an alt", None], r"one is \['an alt', None\]"),
    ],
)
def test_what_is_no_alt_text_is_shown(alt: Any, says: str) -> None:
    with pytest.raises(AltogetherError, match=says):
        made_captioner().caption(made_images(1)[0], alt)


def test_what_is_shown_of_a_request_is_short() -> None:
    (request,) = made_captioner().requests(made_images(1), ["an alt"])
    assert len(repr(request)) < 200
    assert "an alt" in repr(request)


@pytest.mark.parametrize("bad", [(), (0,), (2, 3), (6,), (0, 1, 2, 3, 4, 5, 6)])
def test_captions_one_at_a_time_are_those_of_the_list(bad: tuple[int, ...]) -> None:
    images: list[Any] = list(made_images(7))
    for index in bad:
        images[index] = b"404"
    captioner = made_captioner(2)
    alts = [f"{index}" for index in range(7)]
    rows = captioner.caption(images, alts, on_error="row")
    assert [index for index, row in enumerate(rows) if isinstance(row, ImageError)] == list(bad)
    one_by_one = list(captioner.iter_captions(iter(images), iter(alts), on_error="row"))
    assert [str(row) for row in one_by_one] == [str(row) for row in rows]
    if bad:
        stream = captioner.iter_captions(images, alts)
        assert sum(1 for _ in _until_error(stream)) <= bad[0]


def _until_error(stream: Iterator[Any]) -> Iterator[Any]:
    with pytest.raises(ImageError):
        yield from stream


def test_images_are_drawn_as_captions_are_taken() -> None:
    """Two batches ahead at most, whatever is left to come."""
    drawn = 0

    def endless() -> Iterator[NDArray[np.uint8]]:
        nonlocal drawn
        image = made_images(1)[0]
        while True:
            drawn += 1
            yield image

    stream = made_captioner(3).iter_captions(endless())
    assert drawn == 0
    for taken in range(1, 50):
        next(stream)
        assert drawn <= taken + 2 * 3


def test_mistakes_are_told_when_a_stream_is_asked_for() -> None:
    """Not at its first caption, which may be somewhere else in a program."""
    captioner = made_captioner()
    with pytest.raises(AltogetherError, match="on_error is raise or row, not 'skip'"):
        captioner.caption([b"404"], on_error="skip")  # type: ignore[call-overload]
    with pytest.raises(AltogetherError, match=r"params is a dict: make it with captioner\.params"):
        captioner.stream([], {"temperature": 0})  # type: ignore[arg-type]
    with pytest.raises(AltogetherError, match="room for"):
        captioner.stream([], CaptionParams(100_000, 0.0, 1.0))
    with pytest.raises(AltogetherError, match="speculation is auto, on or off, not True"):
        captioner.stream([], speculation=True)  # type: ignore[arg-type]
    with pytest.raises(AltogetherError, match="requests must be a list"):
        captioner.stream(CaptionRequest(made_images(1)[0]))  # type: ignore[arg-type]
    captioner.close()
    with pytest.raises(AltogetherError, match="this captioner is closed"):
        captioner.stream([])
    with pytest.raises(AltogetherError, match="this captioner is closed"):
        captioner.iter_captions([])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("a.png", "type str is not a request: make requests with captioner.requests"),
        (("a.png", "alt"), "type tuple is not a request"),
        (CaptionRequest(np.zeros((5, 5, 3), np.uint8)), r"uint8 of shape \(5, 5, 3\)"),
        (CaptionRequest(np.zeros((8, 8, 3), np.float32)), "float32"),
    ],
)
def test_what_is_no_request_is_told_apart(given: Any, says: str) -> None:
    captioner = made_captioner()
    with pytest.raises(AltogetherError, match=says):
        list(captioner.stream([given]))
    assert len(captioner.caption(made_images(2))) == 2, "usable after an error"


def test_a_request_has_texts_and_something_to_see() -> None:
    with pytest.raises(AltogetherError, match="are a tuple"):
        CaptionRequest(made_images(1)[0], "boat")  # type: ignore[arg-type]
    with pytest.raises(AltogetherError, match="pixels or an embedding"):
        CaptionRequest(None)


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 1.5},
        {"max_new_tokens": True},
        {"seed": 1.5},
        {"seed": "1"},
        {"temperature": "0"},
        {"top_p": "1"},
        {"loop_repeats": 2.0},
    ],
)
def test_parameters_of_another_type_are_refused(given: dict[str, Any]) -> None:
    """A seed of 1.5 would be another one in the rows; 1.5 tokens would never be reached."""
    with pytest.raises(ConfigError, match=f"{next(iter(given))} must be a"):
        made_captioner().params(**given)


@pytest.mark.parametrize("option", ["threads", "num_slots"])
@pytest.mark.parametrize("value", [0, -1, "2", 1.5])
def test_counts_that_are_none_are_refused(option: str, value: Any) -> None:
    with pytest.raises(AltogetherError, match=f"{option} must be an int of at least 1"):
        Captioner.load("starter", **{option: value})


def test_every_error_is_public_and_survives_a_process() -> None:
    errors = [
        AltogetherError("a"),
        BundleError("b"),
        ConfigError("c"),
        ImageError("damaged", "d", "0123"),
        MissingDependencyError("torch", "train", "captioning"),
    ]
    for error in errors:
        assert getattr(altogether_rt, type(error).__name__) is type(error)
        assert isinstance(error, AltogetherError)
        sent = pickle.loads(pickle.dumps(error))
        assert (type(sent), str(sent), vars(sent)) == (type(error), str(error), vars(error))
