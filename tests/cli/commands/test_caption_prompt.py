"""What a captioner is asked for, the style of captions, and their checks, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.captioner import Captioner
from altogether_rt.cli.main import app
from altogether_rt.scenes.dataset import write_scenes


def caption(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["caption", *map(str, arguments)])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    list(write_scenes(tmp_path / "scenes", 6, seed=3, split="test"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "scenes"


@pytest.mark.lean
def test_style_alt_of_a_captioner_that_cannot_be_asked(scenes: Path) -> None:
    """Its captions, shortened by rule; an output of one style takes none of the other."""
    usual = ["--alt", "alts.jsonl", "--out", "usual.jsonl"]
    assert caption(scenes, *usual).exit_code == 0
    done = caption(scenes, "--alt", "alts.jsonl", "--out", "alt.jsonl", "--style", "alt")
    assert done.exit_code == 0, done.output
    pairs = list(zip(read(Path("usual.jsonl")), read(Path("alt.jsonl")), strict=True))
    for plain, short in pairs:
        assert "style" not in plain["params"]
        assert short["params"]["style"] == "alt"
        assert len(short["caption"]) <= 125
        assert not short["caption"].lower().startswith("a picture of")
        assert ("shortened" in short) == (len(plain["caption"]) > 125 + len("A picture of "))
        if "shortened" not in short:
            assert plain["caption"].lower().endswith(short["caption"].lower())
        assert plain["seed"] == short["seed"]
    done = caption(scenes, *usual, "--style", "alt")
    assert done.exit_code == 1
    assert "with other parameters (style: the default then, alt now): choose" in done.stderr
    assert read(Path("usual.jsonl")) == [plain for plain, _ in pairs]


@pytest.mark.lean
def test_checks_are_there_where_they_are_asked_for(scenes: Path) -> None:
    done = caption(scenes, "--alt", "alts.jsonl", "--out", "a.jsonl", "--json")
    assert "checks" not in json.loads(done.stdout)
    assert not any("checks" in row for row in read(Path("a.jsonl")))
    arguments = ("--alt", "alts.jsonl", "--checks", "--sheet", "b.html")
    done = caption(scenes, *arguments, "--out", "b.jsonl", "--json")
    checks, rows = json.loads(done.stdout)["checks"], read(Path("b.jsonl"))
    assert checks["checked"] == len(rows) == 6
    for key in ("alt_words", "alt_names"):
        found = [row["checks"].get(key, [0, 0]) for row in rows]
        assert checks[key] == [sum(kept for kept, _ in found), sum(num for _, num in found)]
    assert checks["alt_words"][1] > 6
    for flag, counted in checks["flags"].items():
        assert counted["count"] == sum(flag in row["checks"]["flags"] for row in rows)
    # What was written before stays as it was, and the rest of a row does not depend on checks.
    assert [{**row, "checks": 0} for row in read(Path("a.jsonl"))] == [
        {**row, "checks": 0} for row in rows
    ]
    done = caption(scenes, "--alt", "alts.jsonl", "--checks", "--out", "c.jsonl")
    assert "6 checked: " in done.stdout
    assert "of the words of the alt-texts kept" in done.stdout


@pytest.mark.lean
def test_prompts_that_are_refused(scenes: Path) -> None:
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("long.txt").write_text("x" * 5000)
    for given, sentence in (
        ("Say more.", "starter follows no instructions"),
        (" ", "the prompt is empty"),
        ("@none.txt", "the prompt none.txt cannot be read: No such file"),
        ("@latin.txt", "the prompt latin.txt cannot be read: it is not a text in UTF-8"),
        ("@long.txt", "the prompt has more than 4,096 characters"),
        ("@scenes", "the prompt scenes cannot be read: Is a directory"),
    ):
        done = caption(scenes, "--prompt", given)
        assert done.exit_code == 1
        assert sentence in done.stderr
        assert not Path("captions.jsonl").exists()
    assert caption(scenes, "--style", "poem").exit_code == 2


@pytest.mark.lean
@pytest.mark.parametrize("speculation", ["on", "off"])
def test_the_starter_repeats_nothing_that_would_be_cut(scenes: Path, speculation: str) -> None:
    for arguments in ([], ["--loop-repeats", "3"]):
        out = f"{len(arguments)}.jsonl"
        options = ("--alt", "alts.jsonl", "--out", out, "--speculation", speculation)
        assert caption(scenes, *options, *arguments).exit_code == 0
    plain, bounded = read(Path("0.jsonl")), read(Path("2.jsonl"))
    assert [row["caption"] for row in plain] == [row["caption"] for row in bounded]
    assert {row["params"].get("loop_repeats") for row in plain} == {None}
    assert {row["params"].get("loop_repeats") for row in bounded} == {3}


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of SmolVLM's format at a small size, with random weights."""
    from tests.importing.small_vlm import write_smolvlm

    folder = tmp_path_factory.mktemp("vlm")
    write_smolvlm(folder / "published")
    arguments = ["import", str(folder / "published"), "--out", str(folder / "checkpoint")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder / "checkpoint"


def test_a_captioner_is_asked_otherwise(scenes: Path, vlm: Path) -> None:
    """Another prompt is another output; the words are in the rows, and decide what they say."""
    Path("prompt.txt").write_text("\ufeffThe author says: {alt}\nWhat is missing?\n", "utf-8")
    usual = ("--alt", "alts.jsonl", "--bundle", vlm, "--max-new-tokens", 16)
    outputs = {}
    for name, options in {
        "usual": (),
        "alt": ("--style", "alt"),
        "prompt": ("--prompt", "What is it?"),
        "file": ("--prompt", "@prompt.txt"),
    }.items():
        done = caption(scenes, *usual, *options, "--out", f"{name}.jsonl", "--json")
        assert done.exit_code == 0, done.output
        outputs[name] = read(Path(f"{name}.jsonl"))
        assert json.loads(done.stdout)["checks"]["checked"] == 6  # it follows instructions
        assert all("checks" in row for row in outputs[name])
        assert {row["params"]["loop_repeats"] for row in outputs[name]} == {3}
    assert {row["params"].get("prompt") for row in outputs["usual"] + outputs["alt"]} == {None}
    assert {row["params"]["prompt"] for row in outputs["prompt"]} == {"What is it?"}
    assert {row["params"]["prompt"] for row in outputs["file"]} == {
        "The author says: {alt}\nWhat is missing?"
    }
    texts = {name: [row["caption"] for row in rows] for name, rows in outputs.items()}
    assert len({tuple(some) for some in texts.values()}) == 4
    assert all(len(text) <= 125 for text in texts["alt"])
    again = caption(scenes, *usual, "--prompt", "What is it?", "--out", "prompt.jsonl", "--json")
    assert json.loads(again.stdout)["skipped"] == 6
    other = caption(scenes, *usual, "--prompt", "What is that?", "--out", "prompt.jsonl")
    assert other.exit_code == 1
    assert "(prompt: What is it? then, What is that? now): choose" in other.stderr
    long = caption(scenes, *usual, "--prompt", "x" * 1000, "--out", "long.jsonl")
    assert long.exit_code == 1
    assert "the prompt has" in long.stderr
    assert not Path("long.jsonl").exists()


def test_python_asks_the_same(scenes: Path, vlm: Path) -> None:
    arguments = ("--bundle", vlm, "--max-new-tokens", 16, "--prompt", "What is it?")
    assert caption(scenes, *arguments, "--out", "a.jsonl", "--limit", 2).exit_code == 0
    with Captioner.load(vlm) as captioner:
        params = captioner.params(max_new_tokens=16, prompt="What is it?")
        paths = [scenes / "0000.png", scenes / "0001.png"]
        found = captioner.caption(paths, [["our boat"], None], params)
    rows = read(Path("a.jsonl"))
    assert found[1].text == rows[1]["caption"]
