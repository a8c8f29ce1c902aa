"""One annotator's session in the open round: the data behind the page, and where answers go.

A session has the images and the answer file of one annotator, and no access to anyone else's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from altogether_rt.annotation.answers import (
    FLAGS,
    checked_answer,
    current_answers,
    now,
    row_key,
    withdrawn_answer,
)
from altogether_rt.annotation.guideline import Guideline
from altogether_rt.annotation.work import Task, TaskKey, Work, hash_text
from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.names import NameFinder
from altogether_rt.web.answers import AnswerFile, check_annotator
from altogether_rt.web.images import ImageTable
from altogether_rt.web.site import Site, WebError

__all__ = ["Session", "name_finder", "page_state", "page_task", "tasks_for"]

Row = Mapping[str, Any]

#: Bytes of a save: a text of the longest length, escaped.
_MAX_BODY_BYTES: Final = 128 * 1024

_ASSETS: Final = "altogether_rt.web.assets"
_PAGE: Final = "altogether_rt.annotation.page"


def tasks_for(work: Work, annotator: str, also_for: Sequence[str] = ()) -> list[Task]:
    """The tasks of an annotator in the open round, in order.

    also_for: annotators whose unanswered images are added. Raises AltogetherError if there are no
    tasks.
    """
    check_annotator(annotator)
    opened = work.round()
    tasks = opened.tasks_of([annotator])
    for name in also_for:
        answered = current_answers(work.answers().get(name, []), opened.number)
        known = {task.key for task in tasks}
        tasks += [
            task
            for task in opened.tasks_of([check_annotator(name)])
            if task.key not in answered and task.key not in known
        ]
    if not tasks:
        names = ", ".join(opened.annotators)
        raise AltogetherError(
            f"{annotator} has no images in round {opened.number}, whose annotators are {names}: "
            "use one of these names, or take over unanswered images with --instead-of."
        )
    position = {task.key: index for index, task in enumerate(opened.tasks)}
    return sorted(tasks, key=lambda task: position[task.key])


def page_state(
    annotator: str, round_number: int, guideline: Guideline, statuses: Sequence[str]
) -> dict[str, Any]:
    """What the page loads once."""
    return {
        "annotator": annotator,
        "round": round_number,
        "guideline": guideline.to_dict(),
        "flags": FLAGS,
        "statuses": list(statuses),
    }


def page_task(task: Task, answer: Row | None, finder: NameFinder) -> dict[str, Any]:
    """What the page shows of one image. It has nothing of other annotators' answers."""
    names = {written for alt in task.alts for written in _names(alt, finder)}
    said = None if answer is None else {"text": answer["text"], "flags": answer["flags"]}
    return {
        "file_name": task.file_name,
        "width": task.width,
        "height": task.height,
        "alts": list(task.alts),
        "text": task.text,
        "from": hash_text(task.text),
        "started_from": task.started_from if len(task.rounds) == 1 else "round",
        "names": sorted(names),
        "answer": said,
    }


def _names(text: str, finder: NameFinder) -> Iterator[str]:
    """The names in a text, as they are written there."""
    for words in finder.names(text):
        found = re.search(r"\W+".join(map(re.escape, words)), text, re.IGNORECASE)
        yield found[0] if found else " ".join(words)


def name_finder(work: Work) -> NameFinder:
    """Finds names in the alt-texts of the open round."""
    return NameFinder(alt for task in work.round().tasks for alt in task.alts)


class Session:
    """A context manager that holds the lock of the annotator's answer file."""

    def __init__(self, work: Work, annotator: str, also_for: Sequence[str] = ()) -> None:
        """Raises AltogetherError if there are no tasks, or another process holds the lock."""
        self.annotator = annotator
        self._work = work
        self._round = work.current_number
        self._guideline = work.guideline
        self._finder = name_finder(work)
        self._tasks = tasks_for(work, annotator, also_for)
        self._by_key = {task.key: index for index, task in enumerate(self._tasks)}
        self._images = ImageTable(
            {str(index): work.image_file(task) for index, task in enumerate(self._tasks)}
        )
        self._saving = threading.Lock()
        self._stack = ExitStack()
        with ExitStack() as stack:
            stack.enter_context(work.locked(alone=False))
            self._file = stack.enter_context(AnswerFile(work.answer_path(annotator)))
            self._stack = stack.pop_all()
        self._answers = current_answers(self._file.rows, self._round)
        saves = _saves_of(self._file.rows, self._round)
        self._saves = [row for row in saves if row_key(row) in self._by_key]

    @property
    def num_tasks(self) -> int:
        return len(self._tasks)

    @property
    def num_answered(self) -> int:
        return sum(task.key in self._answers for task in self._tasks)

    def site(self) -> Site:
        """The page and its endpoints."""
        site = Site(max_body_bytes=_MAX_BODY_BYTES)
        site.file("", _PAGE, "page.html")
        for name in ("diff.js", "page.css", "page.js", "server.js"):
            site.file(name, _PAGE)
        for name in ("base.css", "client.js", "icon.svg"):
            site.file(name, _ASSETS)
        site.get("state", self.state)
        site.get_item("task", self.task)
        site.get_item("image", self._images.response)
        site.post("answer", self.save)
        site.post("undo", self.undo)
        return site

    def state(self) -> dict[str, Any]:
        """The annotator, the round, the guideline, and the status of every image."""
        with self._saving:
            statuses = [self._status(task.key) for task in self._tasks]
        return page_state(self.annotator, self._round, self._guideline, statuses)

    def task(self, key: str) -> dict[str, Any]:
        """The texts of one image. Raises WebError if there is no such image."""
        task = self._task(key)
        return page_task(task, self._answers.get(task.key), self._finder)

    def save(self, said: Row) -> dict[str, Any]:
        """Save an answer; it is on disk when this returns.

        Raises AltogetherError if the image has changed or the answer is not valid.
        """
        task = self._task(said.get("task"))
        self._images.check(str(self._by_key[task.key]))
        row = checked_answer(
            task,
            self._round,
            said,
            annotator=self.annotator,
            guideline=self._guideline.stamp,
            via="page",
        )
        with self._saving:
            self._append(row)
            self._saves.append(row)
            return {"status": self._status(task.key)}

    def undo(self, said: Row) -> dict[str, Any]:
        """Undo the last save: the answer before it, if any, is current again.

        Returns the task's index, its new status and the text that was undone; an index of None if
        there is nothing to undo.
        """
        with self._saving:
            if not self._saves:
                return {"task": None}
            taken = self._saves[-1]
            key = row_key(taken)
            before = next((row for row in self._saves[-2::-1] if row_key(row) == key), None)
            task = self._tasks[self._by_key[key]]
            row = dict(before or self._withdrawn(task, taken)) | {"time": now(), "undo": True}
            self._append(row)
            self._saves.pop()
            return {
                "task": self._by_key[key],
                "status": self._status(key),
                "taken": {"text": taken["text"], "flags": taken["flags"]},
            }

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _task(self, key: Any) -> Task:
        text = str(key)
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise WebError(404, "There is no such image.")
        if int(text) >= len(self._tasks):
            raise WebError(404, "There is no such image.")
        return self._tasks[int(text)]

    def _status(self, key: TaskKey) -> str:
        row = self._answers.get(key)
        return "" if row is None else "flagged" if row["flags"] else "answered"

    def _append(self, row: Row) -> None:
        self._file.append(row)
        key = row_key(row)
        self._answers.pop(key, None)
        if not row.get("withdrawn"):
            self._answers[key] = row

    def _withdrawn(self, task: Task, taken: Row) -> Row:
        return withdrawn_answer(
            task,
            self._round,
            taken,
            annotator=self.annotator,
            guideline=self._guideline.stamp,
            via="page",
        )


def _saves_of(rows: Sequence[Row], round_number: int) -> list[Row]:
    """The saves that can be undone, the last one at the end, reconstructed from the rows."""
    saves: list[Row] = []
    for row in rows:
        if row.get("round") != round_number:
            continue
        if row.get("undo"):
            del saves[-1:]
        elif row.get("withdrawn"):  # imported: withdrawn elsewhere
            saves = [save for save in saves if row_key(save) != row_key(row)]
        else:
            saves.append(row)
    return saves
