"""No name, alt-text or caption can add a line to what is printed, or do anything to a terminal.

Every byte that commands print is looked at: no control character but the ends of lines, none that
turns text around, and no line that begins as a name wants it to. JSON keeps the exact value.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from altogether_rt.cli.main import app
from altogether_rt.jobs import open as open_module
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

#: What an attacker would write: a line of its own, the cursor moved, colours, markup, text turned
#: around, an 8-bit escape sequence, a title; and a byte that is not UTF-8.
EVIL = (
    "x\nFORGED: all done\r\x1b[2J\x1b]0;t\x07\x9b1A[red]\u202egnp\u2066\u2028FORGED\u2029\x85\x7f"
)
BYTES = b"b\xff\xfe\nFORGED.png"

#: What must not be printed.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|^\\W*FORGED", re.MULTILINE
)


def check(text: str) -> str:
    found = _UNSAFE.search(text)
    assert found is None, f"{text[max(0, found.start() - 60) : found.end() + 60]!r}"
    return text


def run(*arguments: str | Path, code: int | None = 0) -> Result:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert code is None or done.exit_code == code, (done.stdout, done.stderr, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    # What is not UTF-8 would have come as a lone surrogate, which the runner cannot hold.
    check(done.stdout_bytes.decode("utf-8"))
    check(done.stderr_bytes.decode("utf-8"))
    return done


@pytest.fixture(autouse=True)
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    fake = FakeCaptioner()
    monkeypatch.setattr(open_module, "open_captioner", lambda resolved, **options: fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory has a folder of an evil name, which holds more of them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / EVIL
    (folder / EVIL).mkdir(parents=True)
    Image.new("RGB", (8, 8), "navy").save(folder / f"{EVIL}.png")
    Image.new("RGB", (8, 8), "teal").save(folder / EVIL / "good.png")
    Image.new("RGB", (8, 8), "red").save(folder / "other.png")
    (folder / f"empty{EVIL}.jpg").touch()
    (folder / f"broken{EVIL}.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (folder / f"svg{EVIL}.svg").write_text("<svg>")
    (folder / f"._{EVIL}").touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/" + BYTES)).touch()
    rows: list[dict[str, Any]] = [
        {"file_name": f"{EVIL}.png", "alt": f"alt {EVIL}"},
        {"file_name": f"gone{EVIL}.png", "alt": EVIL},
        {"file_name": f"{EVIL}.PNG", "alt": EVIL, EVIL: 1},
        {"file_name": 5, "alt": EVIL},
        {EVIL: EVIL},
    ]
    lines = [json.dumps(row) for row in rows] + [EVIL.replace("\n", " ")]
    (tmp_path / f"alts{EVIL}.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def alts_of(folder: Path) -> Path:
    return folder.parent / f"alts{EVIL}.jsonl"


def test_caption(folder: Path) -> None:
    out, log = folder.parent / f"out{EVIL}.jsonl", folder.parent / f"log{EVIL}"
    options = ("--alt", alts_of(folder), "--out", out, "--log-file", log, "--sidecar", ".txt")
    done = run("caption", folder, *options, "--sheet", f"{EVIL}.html")
    assert r"x\nFORGED: all done\r\x1b[2J" in done.stdout  # it is shown, as what it is
    assert "[red]" in done.stdout
    run("caption", folder, *options)
    run("caption", folder, *options, "--retry-errors", "--progress", "plain")
    run("caption", folder, *options, "--update", "--quiet")
    run("caption", folder, *options, "--overwrite", "--strict", code=1)
    run("caption", folder, "--dry-run", "--sample", "0.9")
    check(log.read_text("utf-8"))
    check(out.read_text("utf-8"))
    names = {json.loads(line)["file_name"] for line in out.read_text("utf-8").splitlines()}
    assert {f"{EVIL}.png", f"{EVIL}/good.png", os.fsdecode(BYTES)} <= names


def test_json_keeps_the_exact_value(folder: Path) -> None:
    done = run("caption", folder, "--alt", alts_of(folder), "--json", "--progress", "json")
    data = json.loads(done.stdout)
    assert data["failed_examples"]["empty"][0].startswith(("empty" + EVIL, os.fsdecode(BYTES)))
    examples = data["alts_without_image"]["examples"]
    assert any(EVIL in example for example in examples)
    for line in done.stderr.splitlines():
        json.loads(line)
    dry = json.loads(run("caption", folder, "--dry-run", "--json").stdout)
    assert any(EVIL in text for texts in dry["failed_examples"].values() for text in texts)


def test_errors_repeat_what_was_given(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / EVIL / f"empty{EVIL}.jpg"
    for arguments in (
        ("caption", "gone" + EVIL),
        ("caption", folder, EVIL),
        ("caption", folder, "--alt", "gone" + EVIL),
        ("caption", folder, "--alt", folder),
        ("caption", folder, "--alt-beside", EVIL),
        ("caption", folder, "--sidecar", EVIL),
        ("caption", folder, "--out", folder),
        ("caption", folder, "--bundle", EVIL),
        ("caption", folder, "--bundle", folder),
        ("caption", folder, "--device", EVIL),
        ("caption", folder, "--log-file", folder / f"{EVIL}.png"),
        ("caption", folder, "--metrics-file", folder / f"{EVIL}.png"),
        ("caption", folder, "--embeddings", plain),
        ("inspect", EVIL),
        ("inspect", folder),
        ("check", plain),
        ("check", "gone" + EVIL),
        ("learn", plain),
        ("learn", "gone" + EVIL),
        ("mix", "gone" + EVIL),
        ("eval", plain, plain),
        ("scenes", "score", plain, plain),
        ("annotate", "start", EVIL, "--alt", EVIL, "--out", EVIL, "--annotators", EVIL),
        ("annotate", "report", EVIL),
        ("compare", EVIL, EVIL, "--images", EVIL, "--out", EVIL, "--annotators", EVIL),
        ("bench", "--bundle", EVIL),
        ("prepare", EVIL),
    ):
        done = run(*arguments, code=None)
        assert done.exit_code in (1, 2), repr(arguments)[-300:]
        assert done.stderr


def test_usage_errors_repeat_what_was_given(folder: Path) -> None:
    for arguments in (
        (EVIL,),
        ("--" + EVIL,),
        ("caption", folder, "--" + EVIL),
        ("caption", folder, "--limit", EVIL),
        ("caption", folder, "--progress", EVIL),
        ("caption", folder, "--speculation", EVIL),
        ("caption", folder, "--seed", "[red]" + EVIL),
        ("scenes", "draw", folder, "--num", EVIL),
        ("annotate", EVIL),
        ("compare", "--" + EVIL),
        ("mix", folder, "--format", EVIL),
        ("caption", folder, "--alt", EVIL, "--alt-beside", EVIL),
    ):
        run(*arguments, code=2)


def test_captions_and_references(folder: Path, tmp_path: Path) -> None:
    """Commands that read rows of captions whose every text is evil."""
    captions, others, references = (tmp_path / f"{name}{EVIL}.jsonl" for name in "abc")
    names = [f"{number}{EVIL}.png" for number in range(4)]
    for path, text in ((captions, EVIL), (others, "a boat " + EVIL)):
        rows: list[dict[str, Any]] = [
            {"file_name": name, "alt": EVIL, "caption": f"{text} {name}"} for name in names
        ]
        rows.append({"file_name": EVIL, "alt": EVIL, "error": {"class": EVIL, "message": EVIL}})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + EVIL.replace("\n", "\n{"))
    references.write_text(
        "".join(json.dumps({"file_name": n, "references": [EVIL]}) + "\n" for n in names[:2])
    )
    for arguments in (
        ("eval", captions, references, "--no-meteor", "--no-phrases"),
        ("eval", captions, references, "--against", others, "--no-meteor", "--no-phrases"),
        ("mix", captions, "--out", tmp_path / f"mixed{EVIL}.jsonl"),
        ("mix", captions, "--out", tmp_path / f"m{EVIL}.csv", "--format", EVIL),
        ("check", captions),
        ("check", others, "--out", tmp_path / f"checked{EVIL}.jsonl"),
        ("learn", captions, "--bundle", "starter"),
        ("scenes", "score", captions, references),
        ("compare", captions, others, "--images", folder, "--out", tmp_path / EVIL / "sxs"),
        ("annotate", "start", folder, "--alt", captions, "--out", tmp_path / EVIL / "work"),
        ("export-captions", captions, tmp_path / f"e{EVIL}"),
    ):
        run(*arguments, code=None)


def test_scenes_are_drawn_into_a_folder_of_any_name(tmp_path: Path) -> None:
    done = run("scenes", "draw", tmp_path / EVIL, "--num", "2")
    assert "FORGED" in done.stdout


def test_a_bundle_whose_manifest_is_evil(tmp_path: Path, root: Path) -> None:
    import shutil

    bundle = tmp_path / f"bundle{EVIL}"
    shutil.copytree(root / "altogether_rt" / "starter", bundle)
    manifest = bundle / "bundle.json"
    data = json.loads(manifest.read_text())

    def spoiled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoiled(each) for key, each in value.items()}
        return EVIL if isinstance(value, str) else value

    run("inspect", bundle)
    for name in data:
        manifest.write_text(json.dumps({**data, name: spoiled(data[name])}))
        run("inspect", bundle, code=None)
        run("caption", tmp_path, "--bundle", bundle, code=None)
    manifest.write_text(json.dumps({**data, EVIL: 1}))
    run("inspect", bundle, code=1)
    run("doctor")


def test_a_bug_and_a_warning_in_a_process_of_its_own() -> None:
    code = (
        "import sys, types, warnings; from altogether_rt.cli import main, registry as commands\n"
        "evil = eval(sys.argv.pop())\n"
        "def command(): warnings.warn(evil); raise RuntimeError(evil)\n"
        "m = types.ModuleType('stand_in'); m.command = command; sys.modules['stand_in'] = m\n"
        "commands.COMMANDS['bench'] = commands.CommandSpec('stand_in:command', '', 'cpu')\n"
        "sys.argv = ['altogether-rt', 'bench']; main.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, repr(EVIL)], capture_output=True)
    assert done.returncode == 1
    error = check(done.stderr.decode("utf-8"))
    assert r"UserWarning: x\nFORGED" in error
    assert r"RuntimeError: x\nFORGED" in error.splitlines()[-1]


def test_on_a_terminal(folder: Path) -> None:
    """There the line of progress and colours are ours; nothing of a name is obeyed."""
    ours, theirs = pty.openpty()
    code = (
        "import sys; from tests.fake_captioner import FakeCaptioner\n"
        "from altogether_rt.jobs import open as m\n"
        "m.open_captioner = lambda resolved, **options: FakeCaptioner(delay_s=0.3)\n"
        "from altogether_rt.cli import main; main.run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "caption", str(folder), "--alt", str(alts_of(folder))],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait() == 0, shown
    text = shown.decode("utf-8")
    assert "images" in text
    for sequence in ("\x1b[2J", "\x1b]0;", "\x9b", "\u202e", "\u2028", "\nFORGED", "\rFORGED"):
        assert sequence not in text
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x0c\x0e-\x1f\x7f-\x9f]*", text)


def test_names_of_embeddings(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"e{EVIL}.npy"
    np.save(path, np.zeros((2, 4), np.float32))
    path.with_suffix(".json").write_text(json.dumps({"names": [EVIL, EVIL]}))
    done = run("caption", folder, "--embeddings", path, code=None)
    assert done.exit_code == 1
