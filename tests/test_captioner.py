"""The Python API, over a runtime that stands in for a model."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.captions import Caption, CaptionRequest
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.generation.requests import Recent, RequestSource
from tests.generation.fake_runtime import FakeRuntime
from tests.made_captioner import CONFIG, made_captioner, made_images

pytestmark = pytest.mark.lean


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_captions_do_not_depend_on_batch_size_or_order(temperature: float) -> None:
    images, alts = made_images(20), [f"{i}" * (i % 5) for i in range(20)]
    captions = []
    for slots in (1, 3, 16):
        captioner = made_captioner(slots)
        params = captioner.params(temperature=temperature, max_new_tokens=30)
        captions.append(captioner.caption(images, alts, params))
    assert captions[0] == captions[1] == captions[2]
    captioner = made_captioner(5)
    params = captioner.params(temperature=temperature, max_new_tokens=30)
    assert captioner.caption(images[::-1], alts[::-1], params) == captions[0][::-1]


def test_another_seed_gives_other_samples() -> None:
    captioner, images = made_captioner(), made_images(5)
    one, two = (
        captioner.caption(images, params=captioner.params(temperature=1.0, top_p=1.0, seed=seed))
        for seed in (0, 1)
    )
    assert [c.text for c in one] != [c.text for c in two]
    assert {c.seed for c in one}.isdisjoint(c.seed for c in two)


def test_paths_pictures_and_arrays_are_the_same_image(tmp_path: Path) -> None:
    array = made_images(1)[0]
    Image.fromarray(array).save(tmp_path / "a.png")
    forms: list[Any] = [array, Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png")]
    captions = made_captioner().caption(forms, ["12", ["12"], ("12",), "12"])
    assert len(set(captions)) == 1


def test_several_alts_and_none() -> None:
    image = made_images(1)[0]
    captioner = made_captioner()
    alts = [["5"], ["5", "6"], ["5", "5"], None]
    params = captioner.params(temperature=0.0)  # sampling would draw by the alt-texts themselves
    one, two, repeated, none = captioner.caption([image] * 4, alts, params)
    assert one.text == repeated.text, "a repeated alt-text is given once"
    assert len({one.text, two.text, none.text}) == 3


def test_requests_are_drawn_as_captions_are_written() -> None:
    drawn = 0

    def requests() -> Iterator[CaptionRequest]:
        nonlocal drawn
        for image in made_images(100):
            drawn += 1
            yield CaptionRequest(image)

    next(made_captioner(4).stream(requests()))
    assert drawn < 50


class CountingRuntime(FakeRuntime):
    """Counts images encoded."""

    num_encoded = 0

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.num_encoded += len(pixels)
        return super().encode(pixels)


def test_the_same_picture_is_encoded_once() -> None:
    runtime = CountingRuntime(3, capacity=400)
    captioner, plain = made_captioner(runtime=runtime), made_captioner(3)
    images = made_images(4) * 5
    alts = [f"{i}" for i in range(20)]
    assert captioner.caption(images, alts) == [
        plain.caption([image], [alt])[0] for image, alt in zip(images, alts, strict=True)
    ]
    assert runtime.num_encoded == 4


def test_parameters_reach_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[SequenceRequest] = []

    def run(engine: Engine, requests: Iterable[SequenceRequest | None]) -> Iterator[Completion]:
        given.extend(each for each in requests if each is not None)
        yield from (Completion(each.key, (5,), 2, "eos") for each in given)

    monkeypatch.setattr(Engine, "run", run)
    captioner = made_captioner()
    params = captioner.params(temperature=0.5, top_p=0.25, max_new_tokens=17, loop_repeats=4)
    (caption,) = captioner.caption(made_images(1), ["12"], params)
    (sequence,) = given
    assert (sequence.temperature, sequence.top_p, sequence.max_new_tokens) == (0.5, 0.25, 17)
    assert (sequence.loop_repeats, list(sequence.alt_ids)) == (4, [1, 2])
    assert sequence.seed == caption.seed
    assert sequence.embedding is not None, "drafts are made from it"
    assert sequence.embedding().shape == (4,)
    assert (caption.text, caption.tokens, caption.embedded) == ("5", 2, None)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_embedding_stands_for_its_picture(temperature: float) -> None:
    runtime = CountingRuntime(3, capacity=400)
    captioner = made_captioner(runtime=runtime)
    params = captioner.params(temperature=temperature, max_new_tokens=20)
    requests = [CaptionRequest(image, (str(i),)) for i, image in enumerate(made_images(7))]
    captions = list(captioner.stream(requests, params, keep_embeddings=True))
    assert all(caption.embedded is not None for caption in captions)
    runtime.num_encoded = 0
    embedded = [
        CaptionRequest(None, request.alts, embedded=caption.embedded)
        for request, caption in zip(requests, captions, strict=True)
    ]
    assert list(captioner.stream(embedded, params)) == captions
    assert runtime.num_encoded == 0
    assert captioner.caption(made_images(1))[0].embedded is None


class Halting(RequestSource):
    """Has something ready only every third time it is asked, unless it must wait."""

    def __init__(self, requests: list[CaptionRequest]) -> None:
        self.left = list(requests)
        self.asked = 0
        self.waited = 0

    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        self.asked += 1
        self.waited += wait
        if not self.left:
            return None
        return [self.left.pop(0)] if wait or self.asked % 3 == 0 else []


def test_captions_go_on_while_no_image_is_ready() -> None:
    requests = [CaptionRequest(image) for image in made_images(12)]
    captioner = made_captioner(4)
    source = Halting(requests)
    assert list(captioner.stream(source)) == list(made_captioner(4).stream(requests))
    assert 1 <= source.waited < 12, "it waits only when there is nothing to write"
    assert captioner.stats.decode_wait_s >= 0
    assert captioner.stats.decoder_s > 0
    assert [request.alts for request in Halting(requests)] == [()] * 12


def test_recent_forgets_what_was_used_longest_ago() -> None:
    recent = Recent[str, int](2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c"), len(recent)) == (1, None, 3, 2)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(AltogetherError, match="as many alt-texts as images"):
        made_captioner().caption(made_images(2), ["1"])
    with pytest.raises(AltogetherError, match="as many alt-texts as images"):
        made_captioner().caption(made_images(1), ["1", "2"])


def test_unreadable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(ImageError):
        made_captioner().caption([tmp_path / "x.jpg"])


def test_too_long_captions_are_refused() -> None:
    limit = CONFIG.max_caption_tokens
    assert made_captioner().params(max_new_tokens=limit).max_new_tokens == limit
    with pytest.raises(AltogetherError, match=f"room for {limit}"):
        made_captioner().params(max_new_tokens=limit + 1)


def test_length_limit_and_truncation_are_reported() -> None:
    captioner = made_captioner()
    long_alt = "7" * (CONFIG.prompt.max_alt_tokens + 1)
    captions = captioner.caption(
        made_images(30), [long_alt] * 30, captioner.params(max_new_tokens=3)
    )
    assert all(c.alt_truncated for c in captions)
    assert {c.finish_reason for c in captions} == {"eos", "length"}
    assert all(c.tokens == 3 for c in captions if c.finish_reason == "length")


def test_closing_closes_the_runtime() -> None:
    with made_captioner() as captioner:
        pass
    assert isinstance(captioner.runtime, FakeRuntime)
    assert captioner.runtime.slots == []


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """onnxruntime keeps what it is about to report, and an id of the machine, in the cache folder.

    Where the variable says 0, or on a CI machine, it decides itself; so neither is set here.
    """
    unset = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    code = "from altogether_rt import Captioner; Captioner.load('starter').close()"
    subprocess.run([sys.executable, "-c", code], env=variables, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []


def test_one_image_in_every_form_is_one_caption(tmp_path: Path) -> None:
    (pixels,) = made_images(1)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    captioner = made_captioner()
    (expected,) = captioner.caption([pixels], [["an alt"]])
    forms = (path, str(path), path.read_bytes(), Image.open(path), pixels)
    for image in forms:
        assert captioner.caption(image, "an alt") == [expected]
        assert captioner.caption(image, ["an alt"]) == [expected]
    with path.open("rb") as file:
        assert captioner.caption(file, "an alt") == [expected]
    assert captioner.caption(np.stack([pixels, pixels])) == captioner.caption([pixels, path])


def test_a_bad_image_stands_in_its_row_on_request() -> None:
    first, second = made_images(2)
    captioner = made_captioner()
    rows = captioner.caption([first, b"404", second], on_error="row")
    assert [type(row) for row in rows] == [Caption, ImageError, Caption]
    assert rows[0] == captioner.caption([first])[0]
    with pytest.raises(ImageError, match="does not begin like an image"):
        captioner.caption([first, b"404", second])
    assert captioner.caption([second])[0] == rows[2]  # usable after an error


def test_mistakes_with_a_single_text_and_a_closedmade_captioner() -> None:
    captioner = made_captioner()
    with pytest.raises(AltogetherError, match="a list with one entry per image"):
        captioner.caption(made_images(2), "one text")
    captioner.close()
    with pytest.raises(AltogetherError, match="this captioner is closed"):
        captioner.caption(made_images(1))


def test_file_objects_of_any_kind_are_read(tmp_path: Path) -> None:
    (pixels,) = made_images(1)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    captioner = made_captioner()
    expected = captioner.caption(pixels)
    with path.open("rb") as opened, path.open("rb", buffering=0) as raw:
        for file in (io.BytesIO(path.read_bytes()), opened, raw):
            assert captioner.caption(file) == expected
            assert captioner.caption([file, path], on_error="row")[1] == expected[0]


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ([["a.png"]], "is a list: give one list of images"),
        ([None], "is not an image: give a path"),
        ([3], "is not an image: give a path"),
        (None, "is not an image: give a path"),
        ([np.zeros((8, 8, 3), np.float32)], "uint8"),
        ([np.zeros((8, 8), np.uint8)], r"\(H, W, 3\)"),
        ([np.zeros((8, 8, 4), np.uint8)], r"\(H, W, 3\)"),
    ],
)
def test_what_is_no_image_is_refused_with_a_sentence(mistake: Any, says: str) -> None:
    captioner = made_captioner()
    with pytest.raises(AltogetherError, match=says):
        captioner.caption(mistake)
    assert len(captioner.caption(made_images(2))) == 2, "usable after an error"


@pytest.mark.parametrize("alts", [[["a"], 3], [b"a", None], [["a", 3], None], {"a": 1, "b": 2}, 7])
def test_alts_that_are_no_texts_are_refused_with_a_sentence(alts: Any) -> None:
    captioner = made_captioner()
    with pytest.raises(AltogetherError, match="alt"):
        captioner.caption(made_images(2), alts)
    assert len(captioner.caption(made_images(2))) == 2


def test_texts_for_a_single_image_in_a_list_are_one_each() -> None:
    """Two alt-texts of one image in a list are taken for those of two images, and refused."""
    captioner = made_captioner()
    with pytest.raises(AltogetherError, match=r"\[\[…\]\]"):
        captioner.caption(made_images(1), ["one", "two"])
    assert len(captioner.caption(made_images(1)[0], ["one", "two"])) == 1


def test_an_error_in_the_middle_of_a_stream_leaves_a_usablemade_captioner(tmp_path: Path) -> None:
    captioner, images = made_captioner(2), made_images(6)
    expected = captioner.caption(images)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for position in range(7):
        mixed: list[Any] = [*images[:position], tmp_path / "cut.png", *images[position:]]
        with pytest.raises(ImageError, match=r"cut\.png"):
            captioner.caption(mixed)
        rows = captioner.caption(mixed, on_error="row")
        assert isinstance(rows[position], ImageError)
        assert [*rows[:position], *rows[position + 1 :]] == expected


def test_a_closed_captioner_says_so_however_it_is_asked() -> None:
    captioner = made_captioner()
    captioner.close()
    captioner.close()
    for ask in (
        lambda: captioner.caption(made_images(1)),
        lambda: captioner.caption([]),
        lambda: captioner.caption([b"404"], on_error="row"),
        lambda: list(captioner.stream([])),
        lambda: captioner.__enter__(),
    ):
        with pytest.raises(AltogetherError, match="this captioner is closed"):
            ask()
