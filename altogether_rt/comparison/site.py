"""What one annotator's page can ask for: tasks without their systems, images, own answers.

Nothing here opens the key. What is sent names tasks by their random ids, and holds neither file
names nor anything else that could tell one system from the other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from altogether_rt.comparison.judgments import MAX_SECONDS, check_choices
from altogether_rt.comparison.study import Study, Task
from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import AnswerFile
from altogether_rt.web.images import ImageFile, ImageTable
from altogether_rt.web.site import Json, Site, WebError

__all__ = ["ComparisonSession", "make_site"]

_PAGE_FILES: Final = {"": "index.html", "compare.css": "compare.css", "compare.js": "compare.js"}
_SHARED_FILES: Final = ("base.css", "client.js", "icon.svg")


class ComparisonSession:
    """One annotator at work on a study."""

    def __init__(
        self, study: Study, annotator: str, answers: AnswerFile, images: Path | None = None
    ) -> None:
        """`images` is where the images are, if not where they were.

        Raises AltogetherError if the study has no such annotator, or if there is no such folder.
        """
        self.study = study
        self.annotator = annotator
        self._tasks = {task.id: task for task in study.tasks_of(annotator)}
        folder = images or Path(study.info.images)
        if not folder.is_dir():
            raise AltogetherError(f"{folder} is not a folder: give --images, where the images are.")
        self.image_table = ImageTable(
            {
                # By its number: the file's name is the researcher's, and may say too much.
                task.id: ImageFile(
                    f"the image of pair {number}", folder / task.file_name, task.sha256
                )
                for number, task in enumerate(self._tasks.values(), 1)
            }
        )
        self._answers = answers
        self._lock = threading.Lock()
        self._last: dict[str, Mapping[str, Any]] = {}
        for row in answers.rows:
            if isinstance(row.get("task"), str) and row["task"] in self._tasks:
                self._last[row["task"]] = row

    @property
    def num_done(self) -> int:
        return len(self._last)

    @property
    def num_tasks(self) -> int:
        return len(self._tasks)

    def state(self) -> Json:
        """`GET state`: the questions, and the tasks in order."""
        with self._lock:
            done = set(self._last)
        return {
            "annotator": self.annotator,
            "questions": [
                {"id": q.id, "text": q.text, "tie": q.tie}
                for q in self.study.info.questions.questions
            ],
            "tasks": [{"id": id_, "done": id_ in done} for id_ in self._tasks],
        }

    def task(self, id_: str) -> Json:
        """`GET task/ID`: what is shown, and this annotator's own answers. Raises WebError."""
        task = self._find(id_)
        with self._lock:
            row = self._last.get(id_, {})
        return {
            "id": task.id,
            "alt": list(task.alt),
            "left": task.left,
            "right": task.right,
            "questions": [question.id for question in self.study.questions_of(task)],
            "choices": row.get("choices") or {},
        }

    def answer(self, body: Mapping[str, Any]) -> Json:
        """`POST answer`: choices, or that the pair cannot be judged; on the disk when it returns.

        Raises WebError for what is not a whole answer, AltogetherError if the image is not the
        one that it was.
        """
        unknown = body.keys() - {"task", "choices", "seconds", "skipped"}
        if unknown:
            raise WebError(400, f"There is no field {sorted(unknown)[0][:40]}.")
        task = self._find(body.get("task"))
        seconds = body.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise WebError(400, "seconds must be a number.")
        if not 0 <= seconds < math.inf:  # NaN fails both
            raise WebError(400, "seconds must be 0 or more.")
        verdict = self._verdict(task, body)
        if "choices" in verdict:
            self.image_table.check(task.id)
        row = {
            "study": self.study.info.id,
            "task": task.id,
            **verdict,
            "seconds": float(min(seconds, MAX_SECONDS)),
            "annotator": self.annotator,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        with self._lock:
            self._answers.append(row)
            self._last[task.id] = row
            return {"done": len(self._last)}

    def _verdict(self, task: Task, body: Mapping[str, Any]) -> dict[str, Any]:
        if "skipped" in body:
            if body["skipped"] is not True or "choices" in body:
                raise WebError(400, "skipped must be true, and stands without choices.")
            return {"skipped": True}
        wrong = check_choices(self.study, task, body.get("choices"))
        if wrong is not None:
            raise WebError(400, f"{wrong[0].upper()}{wrong[1:]}.")
        return {"choices": dict(body["choices"])}

    def _find(self, id_: Any) -> Task:
        task = self._tasks.get(id_) if isinstance(id_, str) else None
        if task is None:
            raise WebError(404, "There is no such task.")
        return task


def make_site(session: ComparisonSession) -> Site:
    """The page and its endpoints."""
    site = Site()
    for name, resource in _PAGE_FILES.items():
        site.file(name, "altogether_rt.comparison.page", resource)
    for name in _SHARED_FILES:
        site.file(name, "altogether_rt.web.assets")
    site.get("state", session.state)
    site.get_item("task", session.task)
    site.get_item("image", session.image_table.response)
    site.post("answer", session.answer)
    return site
