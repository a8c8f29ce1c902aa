"""Every example of the guide to the Python API runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.captions import Caption, CaptionParams

pytestmark = pytest.mark.lean

GUIDE = Path(__file__).parent.parent / "docs" / "python.md"


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The code of the guide; the working directory has the images that it names."""
    if not GUIDE.exists():
        pytest.skip("the guide is not part of the wheel")
    if find_spec("onnxruntime") is None:
        pytest.skip("needs the extra cpu")
    (tmp_path / "photos").mkdir()
    for index, name in enumerate(("a.jpg", "b.jpg", "photos/a.jpg", "photos/b.jpg")):
        Image.new("RGB", (90, 70), (50 * index, 90, 200)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.S)


def test_the_examples_run_one_after_another(
    examples: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    for code in examples:
        if code.startswith("# script") or (code.startswith("# needs torch") and not _has_torch()):
            continue
        exec(compile(code, str(GUIDE), "exec"), names)
    names["captioner"].close()
    said = capsys.readouterr().out
    assert "missing.jpg not_a_file missing.jpg does not exist" in said
    assert "2 of 2" in said
    assert "(256,)" in said
    assert len((tmp_path / "captions.txt").read_text("utf-8").splitlines()) == 2


def _has_torch() -> bool:
    return find_spec("torch") is not None


def test_the_program_for_several_processes_runs(examples: list[str], tmp_path: Path) -> None:
    (code,) = (each for each in examples if each.startswith("# script"))
    (tmp_path / "program.py").write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"], capture_output=True, text=True, timeout=120, check=True
    )
    assert len(re.findall("A picture of", done.stdout)) == 2


def test_the_guide_names_all_parameters_and_the_fields_of_a_caption() -> None:
    if not GUIDE.exists():
        pytest.skip("the guide is not part of the wheel")
    text = GUIDE.read_text("utf-8")
    internal = {"embedded", "image_hash", "notes"}
    for name in {*CaptionParams.__annotations__, *Caption.__annotations__} - internal:
        assert f"`{name}`" in text, name
