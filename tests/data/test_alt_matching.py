"""Alt-texts and images whose names are not spelled alike."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


def source(tmp_path: Path, images: list[str], names: list[str]) -> FolderSource:
    root = tmp_path / "photos"
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_bytes(b"x")
    path = tmp_path / "alts.csv"
    path.write_text("file_name,alt\n" + "".join(f"{name},of {name}\n" for name in names))
    return FolderSource(root, path)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("sub/a b.png", "sub\\a b.png"),
        ("a b.png", "a%20b.png"),
        ("a.png", "./x/../a.png"),
        ("sub/a.png", "photos/sub/a.png"),
        ("sub/a.png", "/data/photos/sub/a.png"),
        ("sub/a.png", "C:\\data\\photos\\sub\\a.png"),
        ("sub/a.png", "SUB/A.PNG"),
        ("sub/a.png", "a.png"),
        ("a.png", "somewhere/else/a.png"),
        ("sub/a.png", "sub/a"),
        (unicodedata.normalize("NFD", "é.png"), "é.png"),
        ("é.png", unicodedata.normalize("NFD", "É.png")),
    ],
)
def test_one_image_is_meant(tmp_path: Path, image: str, name: str) -> None:
    found = source(tmp_path, [image, "other.png"], [name])
    assert found.alts_of(image).texts == (f"of {name}",)  # type: ignore[union-attr]
    assert not found.alts_without_image


def test_names_relative_to_the_root_of_a_site(tmp_path: Path) -> None:
    names = ["/img/a.png", "/a.png", "/news/img/a.png", "https://x.org/gone.png"]
    found = source(tmp_path, ["img/a.png", "a.png", "news/img/a.png"], names)
    assert {s.key: s.alts.texts for s in found.samples()} == {
        name.lstrip("/"): (f"of {name}",) for name in names[:3]
    }
    assert found.alts_without_image.examples == ["https://x.org/gone.png"]


@pytest.mark.parametrize(
    ("images", "names", "reason"),
    [
        (["A.png", "a.png"], ["x/y.png"], "must be relative to"),
        (["A.png", "a.PNG"], ["a.png"], "upper and lower case only"),
        (["x/a.png", "y/a.png"], ["a.png"], "in several folders"),
        (["a.png"], ["x/a.png", "y/a.png"], "several lines mean one file"),
        (["a.png"], ["a.jpg"], "the endings differ"),
        (["a.png"], ["https://x.org/a.png"], "name the column of file names by --image-key"),
    ],
)
def test_no_image_is_meant(
    tmp_path: Path, images: list[str], names: list[str], reason: str
) -> None:
    with pytest.raises(AltogetherError, match=reason) as caught:
        source(tmp_path, images, names)
    assert names[0] in str(caught.value) and images[0] in str(caught.value)


COMPOSED, DECOMPOSED = "caf\u00e9.png", "cafe\u0301.png"
#: In neither normal form: its two marks are in the wrong order.
NEITHER = "a\u0301\u0323.png"


@pytest.mark.parametrize("prefix", ["", "somewhere/photos/", "elsewhere/"])
@pytest.mark.parametrize(
    "names", [[COMPOSED], [DECOMPOSED], [COMPOSED, DECOMPOSED], [DECOMPOSED, COMPOSED]]
)
def test_two_images_whose_names_differ_in_their_unicode_form_alone(
    tmp_path: Path, prefix: str, names: list[str]
) -> None:
    found = source(tmp_path, [COMPOSED, DECOMPOSED], [prefix + name for name in names])
    texts = {sample.key: sample.alts.texts for sample in found.samples()}
    assert texts == {
        name: (f"of {prefix}{name}",) if name in names else () for name in (COMPOSED, DECOMPOSED)
    }
    assert not found.alts_without_image
    assert found.alts_of(COMPOSED) == next(s.alts for s in found.samples() if s.key == COMPOSED)


def test_a_name_that_may_mean_either_of_two_unicode_forms_means_neither(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, NEITHER) for form in ("NFC", "NFD")]
    assert len({NEITHER, *forms}) == 3
    found = source(tmp_path, [*forms, "b.png"], [NEITHER, "b.png"])
    assert [found.alts_of(form).texts for form in forms] == [(), ()]  # type: ignore[union-attr]
    assert found.alts_without_image.examples == [NEITHER]


def test_metadata_beside_images_in_the_other_unicode_form(tmp_path: Path) -> None:
    (tmp_path / COMPOSED).write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text(f"file_name,alt\n{DECOMPOSED},of a café\n", "utf-8")
    found = FolderSource(tmp_path, beside="metadata.csv")
    assert found.alts_of(COMPOSED).texts == ("of a café",)  # type: ignore[union-attr]


def test_an_exact_name_goes_before_one_in_other_case(tmp_path: Path) -> None:
    found = source(tmp_path, ["a.png", "b.png"], ["A.PNG", "a.png"])
    assert found.alts_of("a.png").texts == ("of a.png",)  # type: ignore[union-attr]
    assert found.alts_without_image.examples == ["A.PNG"]


@pytest.mark.parametrize("name", ["\0/a.png", "\ud800/a.png"])
def test_a_name_that_no_folder_can_have_is_no_image(tmp_path: Path, name: str) -> None:
    for image in ("b.png", "c.png"):  # c.png has no alt-text, so other spellings are tried
        (tmp_path / image).write_bytes(b"x")
    records = [{"file_name": name, "alt": "x"}, {"file_name": "b.png", "alt": "y"}]
    (tmp_path / "alts.json").write_text(json.dumps(records))
    found = FolderSource(tmp_path, tmp_path / "alts.json")
    assert found.alts_without_image.examples == [name]
    assert found.alts_of("b.png").texts == ("y",)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "columns found: none"),
        ("nr,beschreibung\n1,my boat\n", "columns found: nr, beschreibung; wanted: a file name in"),
        ("file_name,beschreibung\na.png,my boat\n", "name yours by --image-key and --alt-key"),
        ("file_name,alt\na.png,\n", "all are empty"),
    ],
)
def test_nothing_that_can_be_used(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "alts.csv").write_text(text)
    with pytest.raises(AltogetherError, match=sentence):
        FolderSource(tmp_path, tmp_path / "alts.csv")


def test_strict(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "alts.csv").write_text('file_name,alt\na.png,x\nb.png,"y\n')
    assert FolderSource(tmp_path, tmp_path / "alts.csv").figures()["alt_lines_used"] == 1
    with pytest.raises(AltogetherError, match=r"1 line of .* and --strict is given: line 3"):
        FolderSource(tmp_path, tmp_path / "alts.csv", strict=True)


def test_litter_of_systems_is_left_out_and_counted(tmp_path: Path) -> None:
    litter = ["._a.png", "__MACOSX/a.png", "sub/@eaDir/a.png/t.jpg", "Thumbs.db", ".DS_Store"]
    for name in ("a.png", *litter):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = FolderSource(tmp_path)
    assert found.names == ["a.png"]
    assert found.unused()["system_litter"].count == 5
    assert "5 files and folders of the system were left out" in found.notes()[0]
