"""Label Studio: a round's tasks in its import format, and its JSON_MIN export as answers.

Tested with 1.23.2, two of whose habits matter here: submitting an emptied box silently stores the
previous text, so an unchanged text may be a mistake; and every field of a task is visible, so tasks
contain nothing that annotators must not know.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from altogether_rt.annotation.answers import FLAGS
from altogether_rt.annotation.work import Task, hash_text
from altogether_rt.data.alts import clean_text

__all__ = ["LABEL_CONFIG", "answer_of", "task_rows"]

_CHOICES: Final = "\n".join(f'    <Choice value="{flag}"/>' for flag in FLAGS)

#: The project's labelling interface.
LABEL_CONFIG: Final = f"""<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <Header value="Alt-text"/>
  <Text name="shown_alt" value="$alt"/>
  <Header value="Edit the text until it is true of the image"/>
  <TextArea name="caption" toName="image" value="$previous" rows="5"
            editable="true" maxSubmissions="1" required="true"/>
  <Choices name="flag" toName="image" choice="multiple">
{_CHOICES}
  </Choices>
</View>
"""


def task_rows(tasks: Sequence[Task], round_number: int, prefix: str) -> list[dict[str, Any]]:
    """Tasks for import. Label Studio finds an image at `prefix` plus the quoted file name."""
    return [
        {
            "data": {
                "image": prefix + quote(task.file_name, errors="surrogateescape"),
                "file_name": task.file_name,
                "image_hash": task.image_hash,
                "alt": " | ".join(task.alts),
                "previous": task.text,
                "round": round_number,
            }
        }
        for task in tasks
    ]


def answer_of(entry: Mapping[str, Any], annotator: str | None) -> dict[str, Any]:
    """An entry of JSON_MIN as an answer, to be validated like any other.

    annotator: its author; None uses Label Studio's user number (`ls-3`).
    """
    caption, previous = entry.get("caption"), entry.get("previous")
    if isinstance(caption, list):
        caption = caption[0] if len(caption) == 1 else None
    row = {
        "file_name": entry.get("file_name"),
        "image_hash": entry.get("image_hash"),
        "round": entry.get("round"),
        "from": hash_text(clean_text(previous)) if isinstance(previous, str) else None,
        "text": "" if caption is None else caption,
        "flags": _flags(entry.get("flag")),
        "seconds": entry.get("lead_time"),
        "annotator": annotator or f"ls-{entry.get('annotator')}",
        "time": _time(entry.get("created_at")),
        "guideline": "label-studio",
    }
    return {key: value for key, value in row.items() if value is not None}


def _flags(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = value.get("choices", [])
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _time(value: Any) -> str | None:
    try:
        time = datetime.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        utc = time.astimezone(datetime.UTC)
    except (ValueError, OverflowError):  # an overflow: of a time before the year 1 in UTC
        return None
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
