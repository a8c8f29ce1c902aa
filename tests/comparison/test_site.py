"""The page's server: what it sends, what it never sends, and that no answer is lost."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from altogether_rt.comparison.judgments import judgments_of
from altogether_rt.comparison.results import compute_results
from altogether_rt.comparison.site import ComparisonSession, make_site
from altogether_rt.comparison.study import Study
from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import AnswerFile, read_answers
from altogether_rt.web.server import LoopbackServer
from tests.comparison.studies import start_small

pytestmark = pytest.mark.lean

Response = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(study: Study, annotator: str = "ann", images: Path | None = None) -> Iterator[str]:
    """The page's address while it is served."""
    with AnswerFile(study.answers_folder / f"{annotator}.jsonl") as answers:
        site = make_site(ComparisonSession(study, annotator, answers, images))
        with LoopbackServer(site) as server:
            server.start()
            yield server.url
            server.shutdown()


def ask(
    url: str, name: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Response:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 0, timeout=20)
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(
        "GET" if body is None else "POST", parts.path + name, data, {**sent, **(headers or {})}
    )
    response = connection.getresponse()
    found = (response.status, dict(response.getheaders()), response.read())
    connection.close()
    return found


def get(url: str, name: str) -> Any:
    status, _, body = ask(url, name)
    assert status == 200, body
    return json.loads(body)


def whole_answer(task: Mapping[str, Any], choice: str = "left", **more: Any) -> dict[str, Any]:
    choices = dict.fromkeys(task["questions"], choice)
    return {"task": task["id"], "choices": choices, "seconds": 2.5} | more


def test_judge_everything_come_back_change_one_and_report(tmp_path: Path) -> None:
    started = start_small(tmp_path, 12)
    study = started.study
    with serving(study) as url:
        state = get(url, "state")
        assert [q["id"] for q in state["questions"]] == ["alignment", "named-entities", "alt-text"]
        ids = [task["id"] for task in state["tasks"]]
        assert len(ids) == 13
        for id_ in ids[:6]:
            task = get(url, f"task/{id_}")
            assert task["choices"] == {}
            choice = "left" if task["left"].startswith("a boat") else "right"
            status, _, body = ask(url, "answer", whole_answer(task, choice))
            assert status == 200, body
    with serving(study) as url:  # another day
        state = get(url, "state")
        assert [task["done"] for task in state["tasks"]] == [True] * 6 + [False] * 7
        again = get(url, f"task/{ids[0]}")
        assert set(again["choices"].values()) <= {"left", "right"}
        assert ask(url, "answer", whole_answer(again, "tie"))[0] == 200
        for id_ in ids[6:12]:
            task = get(url, f"task/{id_}")
            choice = "left" if task["left"].startswith("a boat") else "right"
            assert ask(url, "answer", whole_answer(task, choice))[0] == 200
        status, _, body = ask(url, "answer", {"task": ids[12], "seconds": 1, "skipped": True})
        assert (status, json.loads(body)) == (200, {"done": 13})
    rows = read_answers(study.answers_folder / "ann.jsonl")
    assert len(rows) == 14
    assert {row["annotator"] for row in rows} == {"ann"}
    assert {row["study"] for row in rows} == {study.info.id}
    key = study.load_key()
    judgments, problems = judgments_of(study, key, {"ann": rows})
    assert not problems
    (pair,) = compute_results(study, key, judgments).pairs
    first = next(q for q in pair.questions if q.question.id == "alignment")
    skipped_first = not key.sides()[ids[12]].is_repeat
    assert first.answers.ties == 1
    assert first.answers.losses == 0
    assert first.num_images == 12 - skipped_first


def crawl(url: str, study: Study) -> dict[str, Response]:
    """Everything that can be asked for, by name; the page's links are followed too."""
    names = {"", "state", "favicon.ico", "key.json", "study.json", "tasks.jsonl", "answers"}
    names |= {"key", "report", "../key.json", "image/../key.json", "image/%2e%2e%2fkey.json"}
    found: dict[str, Response] = {}
    while names - found.keys():
        for name in sorted(names - found.keys()):
            found[name] = ask(url, name)
            if found[name][1].get("Content-Type", "").startswith("text/html"):
                names |= set(re.findall(r'(?:src|href)="([^"]+)"', found[name][2].decode()))
    for task in json.loads(found["state"][2])["tasks"]:
        for name in (f"task/{task['id']}", f"image/{task['id']}"):
            found[name] = ask(url, name)
        shown = json.loads(found[f"task/{task['id']}"][2])
        found[f"answer {task['id']}"] = ask(url, "answer", whole_answer(shown))
    for body in ({"task": "x"}, {"task": study.tasks[0].id}, {"choices": 1}, {"system": "zebra"}):
        found[f"refused {body}"] = ask(url, "answer", body)
    found["answer 404"] = ask(url, "no-such", {})
    found["state again"] = ask(url, "state")
    return found


def test_no_byte_that_is_served_names_a_system_or_tells_them_apart(tmp_path: Path) -> None:
    """A study and its mirror image, with the systems' files exchanged, are served alike but for
    the random ids: so nothing that is served depends on which system is which."""
    secrets_ = ("zebra", "walrus", "is_repeat", '"seed"', "images/0", "000.png")
    served = []
    for exchanged in (False, True):
        folder = tmp_path / str(exchanged)
        study = start_small(folder, 10, exchanged=exchanged).study
        (study.folder / "key.json").rename(folder / "elsewhere.json")
        with serving(study) as url:
            found = crawl(url, study)
        assert sum(status == 200 for status, _, _ in found.values()) > 3 * len(study.tasks)
        for name, (_, headers, body) in found.items():
            text = (json.dumps(headers) + body.decode("latin-1")).lower()
            for secret in secrets_:
                assert secret not in text, f"{name} serves {secret}"
        served.append([_without_ids(study, name, body) for name, (_, _, body) in found.items()])
    assert served[0] == served[1]


def _without_ids(study: Study, name: str, body: bytes) -> tuple[str, bytes]:
    for index, task in enumerate(study.tasks):
        name = name.replace(task.id, f"<{index}>")
        body = body.replace(task.id.encode(), f"<{index}>".encode())
    return name, body


def test_ids_say_nothing(tmp_path: Path) -> None:
    study = start_small(tmp_path, 30).study
    ids = [task.id for task in study.tasks]
    assert all(re.fullmatch(r"[0-9a-f]{16}", id_) for id_ in ids)
    assert ids != sorted(ids)
    assert len(set(ids)) == len(ids) == 33


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"task": "0123456789abcdef"}, 404),
        ({"task": None}, 404),
        ({"task": ["x"]}, 404),
        ({"choices": {}}, 400),
        ({"choices": {"alignment": "left"}}, 400),
        ({"choices": "left"}, 400),
        ({"seconds": "3"}, 400),
        ({"seconds": True}, 400),
        ({"seconds": -1}, 400),
        ({"seconds": 1e999}, 400),
        ({"skipped": True}, 400),
        ({"system": 1}, 400),
    ],
)
def test_what_is_no_whole_answer_is_refused_and_not_kept(
    tmp_path: Path, change: dict[str, Any], status: int
) -> None:
    study = start_small(tmp_path, 2).study
    with serving(study) as url:
        task = get(url, f"task/{study.tasks[0].id}")
        found, _, body = ask(url, "answer", {**whole_answer(task), **change})
        assert found == status
        assert json.loads(body)["error"]
        wrong = dict.fromkeys(task["questions"], "middle")
        assert ask(url, "answer", {**whole_answer(task), "choices": wrong})[0] == 400
        skip = {"task": task["id"], "seconds": 1, "skipped": "yes"}
        assert ask(url, "answer", skip)[0] == 400
        assert not any(one["done"] for one in get(url, "state")["tasks"])
    assert read_answers(study.answers_folder / "ann.jsonl") == []


def test_times_beyond_a_day_are_cut_to_one(tmp_path: Path) -> None:
    study = start_small(tmp_path, 2).study
    path = study.answers_folder / "ann.jsonl"
    path.write_text('{"task": ["no id"]}\n{"other": 1}\n')
    with serving(study) as url:
        task = get(url, f"task/{study.tasks[0].id}")
        assert ask(url, "answer", whole_answer(task, seconds=0))[0] == 200
        assert ask(url, "answer", whole_answer(task, seconds=10**400))[0] == 200
    assert read_answers(path)[-1]["seconds"] == 86_400.0


def test_foreign_hosts_and_origins_are_refused(tmp_path: Path) -> None:
    study = start_small(tmp_path, 2).study
    with serving(study) as url:
        assert ask(url, "state", headers={"Host": "evil.example"})[0] == 403
        task = get(url, f"task/{study.tasks[0].id}")
        foreign = {"Origin": "http://evil.example"}
        assert ask(url, "answer", whole_answer(task), foreign)[0] == 403
        assert ask(url.rpartition("/")[0][:-3] + "xxx/", "state")[0] == 404


def test_annotators_see_their_own_tasks_and_answers_alone(tmp_path: Path) -> None:
    from altogether_rt.comparison.design import Split

    study = start_small(tmp_path, 10, split=Split(("ann", "ben"))).study
    bens = [task for task in study.tasks if task.annotators == ("ben",)]
    with serving(study) as anns, serving(study, "ben") as bens_url:
        ids = {task["id"] for task in get(anns, "state")["tasks"]}
        assert not ids & {task.id for task in bens}
        for path in ("task", "image"):
            assert ask(anns, f"{path}/{bens[0].id}")[0] == 404
        task = get(bens_url, f"task/{bens[0].id}")
        assert ask(anns, "answer", whole_answer(task))[0] == 404
        assert ask(bens_url, "answer", whole_answer(task))[0] == 200
        assert not any(one["done"] for one in get(anns, "state")["tasks"])
    with pytest.raises(AltogetherError, match="no annotator 'eve': there are ann, ben"):
        study.tasks_of("eve")


def test_an_image_that_changed_is_refused_by_number_not_by_name(tmp_path: Path) -> None:
    study = start_small(tmp_path, 2).study
    task = study.tasks[1]
    (tmp_path / "images" / task.file_name).write_bytes(b"another")
    with serving(study) as url:
        status, _, body = ask(url, f"image/{task.id}")
        assert status == 409
        assert "the image of pair 2 has changed" in body.decode()
        shown = get(url, f"task/{task.id}")
        assert ask(url, "answer", whole_answer(shown))[0] == 409
        skip = {"task": task.id, "seconds": 1, "skipped": True}
        assert ask(url, "answer", skip)[0] == 200
    moved = (tmp_path / "images").rename(tmp_path / "moved")
    with serving(study, "ben", moved) as url:
        assert ask(url, f"image/{study.tasks[0].id}")[0] == 200


def test_no_answer_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    study = start_small(tmp_path, 12).study
    arguments = ["compare", "serve", str(study.folder), "--as", "ann"]
    confirmed = 0
    for ending in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "altogether_rt.cli.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().strip()
        state = get(url, "state")
        assert sum(task["done"] for task in state["tasks"]) == confirmed
        for task in [task for task in state["tasks"] if not task["done"]][:4]:
            shown = get(url, f"task/{task['id']}")
            assert ask(url, "answer", whole_answer(shown))[0] == 200
            confirmed += 1
        os.kill(process.pid, ending)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        _, said = process.communicate()
    assert process.returncode == 0
    assert said.endswith("12 of 13 pairs judged.\n")
    rows = read_answers(study.answers_folder / "ann.jsonl")
    assert len({row["task"] for row in rows}) == confirmed == 12
