"""The log and the file of metrics: their formats, and what they never touch."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.monitoring.log import EventLog
from altogether_rt.monitoring.metrics import MetricsFile, metrics_text
from altogether_rt.monitoring.state import RunState

pytestmark = pytest.mark.lean

STATE = RunState(
    "images",
    total=10,
    done=4,
    captioned=2,
    tokens=30,
    errors=Counter({"empty": 1, 'a"b\\c\nd': 1}),
    restarts=1,
    queue_depth=5,
    elapsed_s=8.0,
)


def test_a_log_of_text_is_a_line_an_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run.log")
    log.event("warning", "image_error", "a\nb is empty.", {"key": "a\nb\u202e", "class": "empty"})
    log.close()
    (line,) = (tmp_path / "run.log").read_text("ascii").splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING image_error: ", line)
    assert line.endswith(rf'a\nb is empty.  pid={os.getpid()} key="a\nb\u202e" class="empty"')


def test_a_log_of_json_keeps_the_exact_values(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run.log", as_json=True)
    log.event("info", "start", "it begins", {"key": "a\nb\udcff\u202e", "path": Path("x")})
    log.close()
    log = EventLog(tmp_path / "run.log", as_json=True)  # another run adds to it
    log.event("info", "end", "it ended", {})
    log.close()
    first, last = map(json.loads, (tmp_path / "run.log").read_text("ascii").splitlines())
    assert first["key"] == "a\nb\udcff\u202e"
    assert (first["level"], first["event"], first["path"]) == ("info", "start", "x")
    assert last["event"] == "end"


@pytest.mark.parametrize("open_it", [EventLog, MetricsFile])
def test_what_is_not_ours_is_not_written_to(
    tmp_path: Path, open_it: type[EventLog] | type[MetricsFile]
) -> None:
    """Links, FIFOs, devices and files of other content stay as they are."""
    mine = tmp_path / "mine.txt"
    mine.write_text("what I wrote")
    link, fifo, folder = tmp_path / "link", tmp_path / "fifo", tmp_path / "folder"
    dangling = tmp_path / "dangling"
    link.symlink_to(mine)
    dangling.symlink_to(tmp_path / "nowhere")
    os.mkfifo(fifo)
    folder.mkdir()
    for path in (mine, link, dangling, fifo, folder, Path("/dev/null")):
        with pytest.raises(AltogetherError):
            open_it(path)
    assert mine.read_text() == "what I wrote"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "fifo", "folder", "link", "mine.txt"]


def test_metrics_are_replaced_and_say_when_the_run_is_over(tmp_path: Path) -> None:
    path = tmp_path / "run.prom"
    for _ in range(2):
        metrics = MetricsFile(path)
        metrics.start(STATE)
        metrics.update(STATE)
        assert "altogether_rt_running 1\n" in path.read_text()
        metrics.finish(STATE)
        assert "altogether_rt_running 0\n" in path.read_text()
    assert os.listdir(tmp_path) == ["run.prom"]


def test_the_exposition_format_is_what_prometheus_reads() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    text = metrics_text(STATE, start_s=1000.5, now_s=1008.5, running=True)
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    values = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values == EXPECTED
    assert families["altogether_rt_images"].type == "counter"
    assert families["altogether_rt_queue_depth"].type == "gauge"
    assert all(family.documentation for family in families.values())


EXPECTED = {
    ("altogether_rt_images_total", ()): 4,
    ("altogether_rt_captions_total", ()): 2,
    ("altogether_rt_errors_total", ("empty",)): 1,
    ("altogether_rt_errors_total", ('a"b\\c\nd',)): 1,
    ("altogether_rt_caption_tokens_total", ()): 30,
    ("altogether_rt_worker_restarts_total", ()): 1,
    ("altogether_rt_images_per_second", ()): 0.5,
    ("altogether_rt_queue_depth", ()): 5,
    ("altogether_rt_images_expected", ()): 10,
    ("altogether_rt_seconds_left", ()): 12,
    ("altogether_rt_running", ()): 1,
    ("altogether_rt_start_timestamp_seconds", ()): 1000.5,
    ("altogether_rt_last_update_timestamp_seconds", ()): 1008.5,
}


def test_the_exposition_format_by_its_rules() -> None:
    """As prometheus.io/docs/instrumenting/exposition_formats says, for where no parser is."""
    text = metrics_text(STATE, start_s=1000.5, now_s=1008.5, running=True)
    assert text.endswith("\n")
    name, label = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*"'
    typed: list[str] = []
    found = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, metric, kind = line.split(" ")
            assert kind in ("counter", "gauge")
            assert (kind == "counter") == metric.endswith("_total")
            assert metric not in typed, "metrics of a name stand together"
            typed.append(metric)
        elif line.startswith("# HELP "):
            assert "\\" not in line
        else:
            matched = re.fullmatch(rf"({name})(?:\{{({label})\}})? (\S+)", line)
            assert matched, line
            assert matched[1] == typed[-1]
            found[matched[1], matched[2]] = float(matched[3])
    assert found[("altogether_rt_errors_total", r'class="a\"b\\c\nd"')] == 1
    assert len(found) == len(EXPECTED)
