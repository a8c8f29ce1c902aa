"""A folder captioned by somebody's own program."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.captions import CaptionParams
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from altogether_rt.jobs.open import open_executor
from altogether_rt.opening import resolve_captioner
from tests.fake_captioner import FakeCaptioner

pytestmark = [
    pytest.mark.lean,
    pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs the extra cpu"),
]

GUIDE = Path(__file__).parents[2] / "docs" / "contracts.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with what the guide names."""
    (tmp_path / "photos").mkdir()
    lines = []
    for index in range(4):
        Image.new("RGB", (20, 20), (60 * index, 0, 9)).save(tmp_path / "photos" / f"{index}.png")
        lines.append(f'{{"file_name": "{index}.png", "alt": "photo {index}"}}\n')
    (tmp_path / "alts.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_may_be_texts(folder: Path) -> None:
    paths: dict[str, Any] = {"folder": "photos", "out": "c.jsonl", "alts": "alts.jsonl"}
    job = CaptionJob(**paths)
    executor = LocalExecutor(FakeCaptioner())
    summary = caption_folder(job, open_folder(job), executor, CaptionParams(8, 0.0, 1.0))
    assert summary.captioned == len((folder / "c.jsonl").read_text("utf-8").splitlines()) == 4


@pytest.mark.parametrize("workers", [0, -1])
def test_there_is_at_least_one_worker(workers: int) -> None:
    captioner = resolve_captioner("starter")
    with (
        pytest.raises(AltogetherError, match=f"at least 1, not {workers}"),
        open_executor(captioner, workers=workers),
    ):
        pass


def _run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program, "utf-8")
    arguments = [sys.executable, "program.py"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120)


def test_the_program_of_the_guide_has_two_workers(folder: Path) -> None:
    if not GUIDE.exists():
        pytest.skip("the guide is not part of the wheel")
    program = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.S)[0]
    assert "workers=2" in program
    done = _run(folder, program)
    assert (done.returncode, done.stdout) == (0, "4 Counter()\n"), done.stderr


def test_workers_that_would_start_workers_say_where_that_belongs(folder: Path) -> None:
    """Each imports the program first, and would caption everything itself."""
    program = """
from altogether_rt.captions import caption_params
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from altogether_rt.jobs.open import open_executor
from altogether_rt.opening import resolve_captioner

job = CaptionJob(folder="photos", out="c.jsonl")
captioner = resolve_captioner("starter")
with open_executor(captioner, workers=2) as executor:
    caption_folder(job, open_folder(job), executor, caption_params(captioner.config))
"""
    done = _run(folder, program)
    assert done.returncode == 1
    assert 'put this below if __name__ == "__main__":' in done.stderr
