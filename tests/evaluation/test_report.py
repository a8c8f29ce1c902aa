"""The report: one file that stands alone, with plots, and whatever captions hold escaped."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from altogether_rt.evaluation.evaluate import Evaluation, Results, evaluate, results
from altogether_rt.evaluation.inputs import Captions, References
from altogether_rt.evaluation.metric import Bootstrap, Estimate, mean_metric
from altogether_rt.evaluation.options import EvaluationOptions
from altogether_rt.evaluation.plots import histogram_svg, interval_svg
from altogether_rt.evaluation.report import Report, _verdict, write_report
from altogether_rt.statistics import Interval

pytestmark = pytest.mark.lean

HOSTILE = '<script>alert(1)</script><img src="http://example.org/x.png"> & "quoted"'


def system(texts: dict[str, str], **fields: object) -> Captions:
    names = {image: image for image in texts}
    alts: dict[str, tuple[str, ...]] = dict.fromkeys(texts, ("our boat Marigold",))
    return Captions(Path("c.jsonl"), texts, names, alts, **fields)  # type: ignore[arg-type]


def evaluated(captions: Captions, references: References) -> Evaluation:
    *_, evaluation = evaluate(captions, references, EvaluationOptions(meteor=False))
    assert isinstance(evaluation, Evaluation)
    return evaluation


@pytest.fixture
def compared(tmp_path: Path) -> Results:
    images = [f"{i}.png" for i in range(6)]
    for image in images[:5]:
        Image.new("RGB", (40, 30), (0, 90, 200)).save(tmp_path / image)
    references = References(tmp_path / "r.jsonl", {i: (f"boat {i} at sea",) for i in images})
    ours = system({i: f"boat {i} at {'sea' if i > '2' else 'home'}" for i in images})
    ours.texts["5.png"] = HOSTILE
    ours.errors["bad.png"] = "truncated"
    theirs = system(dict.fromkeys(images, "a boat at sea"))
    pair = (evaluated(ours, references), evaluated(theirs, references))
    return results(*pair, Bootstrap(num_resamples=200))


def test_the_page_stands_alone(tmp_path: Path, compared: Results) -> None:
    path = tmp_path / "out" / "report.html"
    write_report(Report(compared, {"tokenizer": "T <1>"}, tmp_path), path)
    page = path.read_text("utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page
    assert page.count("data:image/jpeg;base64,") == 5  # 0.png … 4.png, each at one of the ends
    assert page.count('class="missing"') == 1  # 5.png
    assert "T &lt;1&gt;" in page
    for label in ("BLEU-4", "CIDEr-D", "alt-text names kept"):
        assert label in page
    assert "bad.png (truncated)" in page
    assert "switched off by --no-meteor" in page  # METEOR


def test_examples_are_the_ends_of_the_differences(tmp_path: Path) -> None:
    """Ours says what the reference does of 0 to 2, theirs of 3 to 5, of 5 with another word."""
    texts = {f"{i}.png": f"boat {i} at sea near the old pier" for i in range(6)}
    other = dict.fromkeys(texts, "birds in a tall tree")
    ours = system({image: (texts if image < "3" else other)[image] for image in texts})
    theirs = system({image: (other if image < "3" else texts)[image] for image in texts})
    theirs.texts["5.png"] = "boat 5 at sea near the new pier"
    references = References(tmp_path / "r.jsonl", {image: (text,) for image, text in texts.items()})
    pair = (evaluated(ours, references), evaluated(theirs, references))
    write_report(Report(results(*pair, Bootstrap(num_resamples=50)), {}), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    shown = re.findall(r'(\d\.png)\W[^\n]*?<span class="figure">([^<]*)<', page)
    metric = pair[1].metrics["cider_d"]
    assert metric.each is not None
    each = dict(zip(metric.images, metric.each.tolist(), strict=True))
    assert shown == [
        *((f"{i}.png", "+10.0000") for i in (0, 1, 2)),
        *((f"{i}.png", "-10.0000") for i in (4, 3)),
        ("5.png", f"{-each['5.png']:.4f}"),
    ]
    assert 1 < each["5.png"] < 9


def test_without_images_and_another_system(tmp_path: Path, compared: Results) -> None:
    alone = Results(compared.evaluation, compared.estimates)
    write_report(Report(alone, {}), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "data:image" not in page
    assert "CIDEr-D: highest" in page and "CIDEr-D: lowest" in page
    assert "Differences" not in page


def test_differences_are_coloured_if_their_interval_excludes_zero(
    tmp_path: Path, compared: Results
) -> None:
    """0.png to 2.png say "home" instead of "sea", and all captions of the other are the same."""
    write_report(Report(compared, {}), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    verdicts = dict(
        re.findall(r'<tr><td>([^<]+)</td><td>[^<]*</td><td>[^<]*</td><td class="(\w*)"', page)
    )
    assert verdicts["duplicates"] == "better"  # lower is
    assert verdicts["CIDEr-D"] in ("", "better")
    assert set(verdicts.values()) <= {"", "better", "worse", "different"}


@pytest.mark.parametrize(
    ("interval", "higher_is_better", "verdict"),
    [
        ((0.01, 0.2), True, "better"),
        ((0.01, 0.2), False, "worse"),
        ((-0.2, -0.01), True, "worse"),
        ((-0.2, -0.01), False, "better"),
        ((0.01, 0.2), None, "different"),
        ((-0.2, -0.01), None, "different"),
        ((0.0, 0.2), True, ""),
        ((-0.2, 0.0), True, ""),
        ((-0.1, 0.1), None, ""),
        ((np.nan, np.nan), True, ""),
    ],
)
def test_verdicts(
    interval: tuple[float, float], higher_is_better: bool | None, verdict: str
) -> None:
    metric = mean_metric("x", "x", "", "score", {"a": 1.0}, higher_is_better=higher_is_better)
    assert _verdict(metric, Estimate(sum(interval) / 2, Interval(*interval), 1)) == verdict


def test_plots_are_well_formed_and_say_what_they_show() -> None:
    values = np.array([0.0, 0.25, 0.5, 1.0, np.nan])
    plot = ElementTree.fromstring(histogram_svg(values, "a <b>", [0.0, 2.0]))
    assert plot.get("aria-label") == "a <b>: 4 images from 0 to 2, mean 0.438, 1"
    rects = plot.findall("rect")
    heights = [float(rect.get("height", "0")) for rect in rects]
    # Four bins of a half: 0 and .25, then .5, then 1: shares 1/2, 1/4, 1/4 of the tallest.
    assert heights == pytest.approx([max(heights), max(heights) / 2, max(heights) / 2], abs=0.1)
    # 360 wide, 128 from the top to the axis, 6 above the tallest.
    assert [(rect.get("x"), rect.get("y"), rect.get("width")) for rect in rects] == [
        ("0.5", "6.0", "89.0"),
        ("90.5", "67.0", "89.0"),
        ("180.5", "67.0", "89.0"),
    ]
    (outline,) = plot.findall("path")  # of 0 and 2: halves in the first bin and in the last
    steps = "M0 128 V6.0 H90.0 V128.0 H180.0 V128.0 H270.0 V6.0 H360.0 V128"
    assert outline.get("d") == steps
    means = {line.get("class"): line.get("x1") for line in plot.findall("line")}
    assert means == {"mean": "78.8", "mean other": "180.0", "axis": "0"}  # 360 · 0.4375 / 2
    assert len(ElementTree.fromstring(histogram_svg([3.0, 3.0], "x")).findall("rect")) == 1
    assert histogram_svg([float("nan")], "x") == ""


def test_interval_beside_zero() -> None:
    plot = ElementTree.fromstring(interval_svg(-1.0, 0.5, 2.0, "x"))
    middle = float(plot.findall("line")[0].get("x1", "0"))
    reach = plot.findall("line")[1]
    # Of 150, and 2.2 to either side: 75 (1 - 1 / 2.2), 75 (1 + 0.5 / 2.2), 75 (1 + 2 / 2.2).
    assert (reach.get("x1"), middle, reach.get("x2")) == ("40.9", 75, "143.2")
    assert plot.findall("circle")[0].get("cx") == "92.0"
    assert interval_svg(1.0, 2.0, 3.0, "x") != "" != interval_svg(-3.0, -2.0, 0.0, "x")
    assert interval_svg(0.0, 0.0, 0.0, "x") == ""
    assert interval_svg(float("nan"), 0.0, 0.0, "x") == ""
