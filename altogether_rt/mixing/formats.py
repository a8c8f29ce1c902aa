"""The files that trainers read. Each is written completely or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TextIO

from altogether_rt.artifacts.files import NewFile
from altogether_rt.data.rows import encode_row
from altogether_rt.data.sniff import has_image_suffix
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.draw import MixedText

__all__ = ["CaptionObject", "Format", "MixFile", "epoch_path", "image_folder"]

#: rows: JSON lines that name the source of each text. open-clip: what its CSV data set reads by
#: default. imagefolder: Hugging Face's metadata.jsonl. metaclip: captions by uuid, for its loader.
Format = Literal["rows", "open-clip", "imagefolder", "metaclip"]

#: Texts that pandas reads as missing values, which open_clip's loader makes the text "nan".
_PANDAS_MISSING: Final = frozenset(
    (
        "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
        "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    )
)  # fmt: skip


#: Characters of a file name that a CSV file cannot hold, or that pandas does not read.
_UNFIT: Final = re.compile("[\x00\ud800-\udfff]")


def epoch_path(path: Path, epoch: int, num_epochs: int) -> Path:
    """`mixed.jsonl`, or `mixed-epoch3.jsonl` if there are several epochs."""
    if num_epochs == 1:
        return path
    digits = len(str(num_epochs - 1))
    return path.with_name(f"{path.stem}-epoch{epoch:0{digits}d}{path.suffix}")


def image_folder(layout: Format, path: Path, images: str) -> Path | None:
    """Where a trainer that reads the file at `path` looks for its images; None if it is elsewhere,
    as for URLs, or not known."""
    if layout == "imagefolder":
        return path.parent
    return Path(images) if layout == "open-clip" and "://" not in images else None


class _Writer(Protocol):
    """Writes texts to an open file in one layout."""

    def write(self, key: str, mixed: MixedText) -> bool:
        """False, and nothing is written, for a name that the layout cannot hold."""

    def end(self) -> None: ...


class MixFile:
    """The texts of one epoch in a temporary file, which `finish` makes `path`."""

    def __init__(self, path: Path, layout: Format, epoch: int, images: str) -> None:
        self.path = path
        # `close` waits for the disk, so that of several files none appears if one does not fit.
        self._new = NewFile(path, sync=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._new.__enter__()
            self._file = io.TextIOWrapper(self._new.file, encoding="utf-8", newline="")
        except OSError as error:
            raise AltogetherError(f"{path} cannot be written: {error.strerror}.") from error
        self._writer = _writer(self._file, layout, path, epoch, images)

    def write(self, key: str, mixed: MixedText) -> bool:
        """False, and nothing is written, for a name that the layout cannot hold."""
        return self._writer.write(key, mixed)

    def close(self) -> None:
        """Write the end of the layout and flush everything to the disk."""
        self._writer.end()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def finish(self) -> None:
        self._new.commit()

    def discard(self) -> None:
        """Remove the temporary file."""
        self._file.close()
        self._new.__exit__()


def _writer(file: TextIO, layout: Format, path: Path, epoch: int, images: str) -> _Writer:
    if layout == "open-clip":
        return _OpenClip(file, "," if path.suffix.lower() == ".csv" else "\t", images)
    if layout == "metaclip":
        return _MetaClip(file)
    if layout == "imagefolder":
        return _Lines(file, epoch=None)
    return _Lines(file, epoch)


class _Lines:
    """JSON lines of `file_name` and `text`; with an epoch, also of `source` and `epoch`."""

    def __init__(self, file: TextIO, epoch: int | None) -> None:
        self._file = file
        self._epoch = epoch

    def write(self, key: str, mixed: MixedText) -> bool:
        row: dict[str, Any] = {"file_name": key, "text": mixed.text}
        if self._epoch is not None:
            row |= {"source": mixed.source, "epoch": self._epoch}
        self._file.write(encode_row(row).decode("utf-8"))
        return True

    def end(self) -> None:
        pass


class _OpenClip:
    """Columns `filepath` and `title`, separated by tabs: the defaults of open_clip's options
    `--csv-img-key`, `--csv-caption-key` and `--csv-separator`. In a .csv file, by commas."""

    def __init__(self, file: TextIO, separator: str, images: str) -> None:
        self._rows = csv.writer(file, delimiter=separator, lineterminator="\n")
        self._rows.writerow(("filepath", "title"))
        self._images = images

    def write(self, key: str, mixed: MixedText) -> bool:
        path = os.path.join(self._images, key)
        if _UNFIT.search(path):
            return False
        # open_clip's tokenizer strips the space; without it pandas would read a missing value.
        text = f" {mixed.text}" if mixed.text in _PANDAS_MISSING else mixed.text
        self._rows.writerow((path, text))
        return True

    def end(self) -> None:
        pass


class CaptionObject:
    """One JSON object `{uuid: caption}`, written one caption at a time."""

    def __init__(self, file: TextIO, nested_key: str | None = None) -> None:
        """nested_key: write `{uuid: {nested_key: caption}}`, as MetaCLIP's captioning code does."""
        self._file = file
        self._nested_key = nested_key
        self._uuids: set[str] = set()

    def write(self, uuid: str, caption: str) -> bool:
        """False, and nothing is written, if there is a caption with that uuid."""
        if uuid in self._uuids:
            return False
        value = caption if self._nested_key is None else {self._nested_key: caption}
        self._file.write(",\n" if self._uuids else "{\n")
        self._file.write(f"{json.dumps(uuid)}: {json.dumps(value, ensure_ascii=False)}")
        self._uuids.add(uuid)
        return True

    def end(self) -> None:
        self._file.write("\n}\n" if self._uuids else "{}\n")


class _MetaClip:
    """One object of plain texts, of captions only: the loader has the alt-texts. The uuid is the
    file name without folder and suffix."""

    def __init__(self, file: TextIO) -> None:
        self._object = CaptionObject(file)

    def write(self, key: str, mixed: MixedText) -> bool:
        if mixed.source != "caption":
            return True
        name = key.rpartition("/")[2]
        uuid = name[: name.rfind(".")] if has_image_suffix(name) else name
        if not self._object.write(uuid, mixed.text):
            raise AltogetherError(
                f"two images have the uuid {uuid!r}: MetaCLIP's layout names an image without its "
                "folder and suffix, so rename one of them or write two files."
            )
        return True

    def end(self) -> None:
        self._object.end()
