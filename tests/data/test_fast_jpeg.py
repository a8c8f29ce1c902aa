"""JPEGs decoded at a part of their size: how far the pixels may be from those of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from altogether_rt.captions import CaptionParams
from altogether_rt.config import EncoderConfig
from altogether_rt.data.alts import Alts
from altogether_rt.data.images import ImageLimits, open_image
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from altogether_rt.jobs.plan import CaptionPlan, Task
from altogether_rt.preprocess.pixels import Preprocessor
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

#: What the README says, of 255.
MAX_MEAN, MAX_ANY = 2.0, 40


def preprocessor(side: int) -> Preprocessor:
    return Preprocessor(EncoderConfig("any", embed_dim=4, image_size=side))


def pixels(folder: Path, name: str, side: int, *, fast: bool) -> NDArray[np.int64]:
    """As a run reads them."""
    captioner: Any = FakeCaptioner()
    captioner.preprocessor = preprocessor(side)
    plan = CaptionPlan(CaptionParams(8, 0.0, 1.0), ImageLimits(), fast_jpeg=fast)
    request = plan.reader(captioner)(Task(0, Sample(name, Alts(), folder / name)))
    assert request.pixels is not None
    return request.pixels.astype(np.int64)


def draw(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Shapes with sharp edges on a smooth ground."""
    rng = np.random.default_rng(0)
    ground = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    image = ground.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        w, h = rng.integers(20, size[0] // 4, 2)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        pen.ellipse((int(x), int(y), int(x + w), int(y + h)), fill=colour)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_pixels_are_nearly_those_of_the_whole(tmp_path: Path, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    draw((1200, 900), mode).save(tmp_path / "a.jpg", exif=exif, quality=90)
    whole, fast = (pixels(tmp_path, "a.jpg", 64, fast=fast) for fast in (False, True))
    assert (whole != fast).any(), "nothing was left out"
    assert abs(whole - fast).mean() <= MAX_MEAN
    assert abs(whole - fast).max() <= MAX_ANY


def test_photographs(shared_data: Path) -> None:
    folder = shared_data / "odd"
    for name in ("exif_landscape_0.jpg", "exif_landscape_6.jpg", "exif_portrait_8.jpg"):
        whole, fast = (pixels(folder, name, 112, fast=fast) for fast in (False, True))
        assert (whole != fast).any()
        assert abs(whole - fast).mean() <= MAX_MEAN
        assert abs(whole - fast).max() <= MAX_ANY


def test_smaller_pictures_and_other_formats_are_read_whole(tmp_path: Path) -> None:
    draw((600, 511)).save(tmp_path / "small.jpg")
    draw((1200, 900)).save(tmp_path / "large.png")
    for name in ("small.jpg", "large.png"):
        whole, fast = (pixels(tmp_path, name, 64, fast=fast) for fast in (False, True))
        assert (whole == fast).all()


def test_at_least_four_times_what_the_encoder_sees_is_decoded(tmp_path: Path) -> None:
    for size, expected in (((2047, 600), (1024, 300)), ((4000, 2048), (500, 256))):
        draw(size).save(tmp_path / "a.jpg")
        with open_image(tmp_path / "a.jpg", draft_side=4 * 64) as image:
            assert image.size == expected


def test_limits_hold_for_the_size_that_is_claimed(tmp_path: Path) -> None:
    draw((1200, 900)).save(tmp_path / "a.jpg")
    limits = ImageLimits(max_pixels=1200 * 900 - 1)
    with (
        pytest.raises(ImageError, match="1200 x 900 pixels"),
        open_image(tmp_path / "a.jpg", limits, draft_side=64),
    ):
        pass
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with (
        pytest.raises(ImageError) as caught,
        open_image(tmp_path / "a.jpg", draft_side=64),
    ):
        pass
    assert caught.value.kind == "truncated"


def test_rows_say_so_and_do_not_mix(tmp_path: Path) -> None:
    draw((300, 200)).save(tmp_path / "a.jpg")
    out, fake = tmp_path / "c.jsonl", FakeCaptioner()
    for fast in (True, False):
        job = CaptionJob(folder=tmp_path, out=out, fast_jpeg=fast)
        if fast:
            caption_folder(job, open_folder(job), LocalExecutor(fake), fake.params())
            assert b'"fast_jpeg": true' in out.read_bytes()
        else:
            with pytest.raises(AltogetherError, match="captions written with --fast-jpeg"):
                caption_folder(job, open_folder(job), LocalExecutor(fake), fake.params())
