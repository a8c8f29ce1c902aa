"""A folder of images and the file with their alt-texts."""

from __future__ import annotations

import copy
import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from altogether_rt.data.alt_files.beside import METADATA_NAMES, beside_hints, read_alts_beside
from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.alt_files.embedded import Embedded, read_embedded_alts
from altogether_rt.data.alt_files.folder_alts import FolderAlts, OnRecords, read_folder_alts
from altogether_rt.data.alts import MAX_ALT_CHARS, Alts
from altogether_rt.data.problems import Problems, counted
from altogether_rt.data.sinks.sidecars import count_own
from altogether_rt.data.sources.base import Sample, Source
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.data.sources.scan import FolderScan, order_key, scan_folder
from altogether_rt.errors import AltogetherError

__all__ = ["FolderSource", "find_alts"]


def _alt_candidates(path: Path, folder: Path) -> tuple[Path, Path]:
    return path, folder / path


def find_alts(path: Path, folder: Path) -> Path:
    """An alt-text file as the user named it: relative to here or, failing that, to the folder."""
    for candidate in _alt_candidates(path, folder):
        if candidate.is_file():
            return candidate
    raise AltogetherError(f"there is no alt-text file {path}, neither here nor in {folder}.")


def _lies_deeper(name: str, scan: FolderScan) -> bool:
    """Whether there is a `metadata.jsonl` in subfolders only."""
    deeper = any(other.endswith("/" + name) for other in scan.texts)
    return name in METADATA_NAMES and deeper and not (scan.root / name).exists()


class FolderSource(Source):
    """The images in a folder, or a single image. A shard is an image."""

    root: Path

    def __init__(
        self,
        folder: Path,
        alts: Path | None = None,
        *,
        recursive: bool = True,
        limit: int | None = None,
        share: KeyShare | None = None,
        out: Path | None = None,
        columns: Columns | None = None,
        strict: bool = False,
        beside: str | None = None,
        embedded: Embedded | None = None,
        sidecar: str | None = None,
        on_records: OnRecords = lambda count: None,
    ) -> None:
        """Scan the folder and read the alt-texts; no image is decoded.

        alts: looked for here, then in the folder. limit: only the first so many images. share: only
        those whose names it contains. out: a file that must not be the alt-text file. columns: of
        the alt-text file. strict: every line of it must be usable. beside: take alt-texts from
        files beside the images instead, `.txt` or `metadata.jsonl`. embedded: take them from the
        XMP of the images instead. sidecar: suffix of files that the run writes there itself.
        on_records: told how many records are read. Raises
        AltogetherError if there is nothing to caption, a file cannot be read, or no alt-text is for
        an image here.
        """
        scan = scan_folder(folder, recursive=recursive)
        if not scan.names:
            deeper = "" if recursive else " itself (its subfolders were left out)"
            raise AltogetherError(f"there are no images in {folder}{deeper}.")
        self._is_one_image = not folder.is_dir()
        self.alt_file: Path | None = None
        self._alts_in_folder = False
        self._alts_elsewhere: list[Path] = []  # of the name given, and not taken
        self._sidecar = sidecar
        self._out = out
        given = self._read_alts(scan, alts, columns, beside, embedded, on_records)
        problems = given.table.problems
        if strict and problems:
            lines = counted(problems.count, "line", "lines")
            raise AltogetherError(
                f"{lines} of {self.alt_file} cannot be used, and --strict is given: {problems}."
            )
        names = scan.names if share is None else [name for name in scan.names if name in share]
        if not names:
            raise AltogetherError(
                f"--sample chose none of the {len(scan.names):,} images in {folder}: choose a "
                "larger share, or another --seed."
            )
        self._set(scan, given, names[:limit])

    def _read_alts(
        self,
        scan: FolderScan,
        alts: Path | None,
        columns: Columns | None,
        beside: str | None,
        embedded: Embedded | None,
        on_records: OnRecords,
    ) -> FolderAlts:
        """From the file, from files beside the images or from their XMP; none if none is named."""
        if alts is not None and not alts.exists() and _lies_deeper(str(alts), scan):
            beside, alts = str(alts), None
        if alts is not None:
            return self._read_alt_file(alts, scan, columns, on_records)
        if beside is not None:
            self.alt_file = Path(beside)
            return read_alts_beside(beside, scan.root, scan.names, scan.texts, columns)
        if embedded is not None:
            self.alt_file = Path("XMP")
            return read_embedded_alts(scan.root, scan.names, embedded, on_records)
        return FolderAlts()

    def _read_alt_file(
        self, alts: Path, scan: FolderScan, columns: Columns | None, on_records: OnRecords
    ) -> FolderAlts:
        path = find_alts(alts, scan.root)
        out = self._out
        if out is not None and out.exists() and os.path.samefile(path, out):
            raise AltogetherError(f"--out is the alt-text file {path}: choose another.")
        self.alt_file = path
        self._alts_in_folder = path != alts
        self._alts_elsewhere = [
            other
            for other in _alt_candidates(alts, scan.root)
            if other.is_file() and not os.path.samefile(other, path)
        ]
        return read_folder_alts(path, scan.root, scan.names, columns, on_records)

    def _set(self, scan: FolderScan, given: FolderAlts, names: list[str]) -> None:
        self.root = scan.root
        self.names = names  # of the images to caption, in order
        self.alts_without_image = given.without_image
        self._scan = scan
        self._given = given
        self._table = given.table
        self._in_folder = set(scan.names)
        self._listed = self._in_folder if len(names) == len(scan.names) else set(names)

    def samples(self) -> Iterator[Sample]:
        return (Sample(name, self._alts(name), self.root / name) for name in self.names)

    def _alts(self, name: str) -> Alts:
        """Those of this very name: one in another Unicode normal form may be another image's."""
        return self._table.by_name.get(name, Alts())

    @property
    def num_shards(self) -> int:
        return len(self.names)

    def part(self, rank: int, num_parts: int) -> FolderSource:
        part = copy.copy(self)
        part._set(self._scan, self._given, self.names[rank::num_parts])
        return part

    def order_key(self, key: str) -> str:
        return order_key(key)

    def num_samples(self, without: Container[str] = ()) -> int:
        return sum(name not in without for name in self.names)

    def has_sample(self, key: str) -> bool:
        return key in self._listed

    def alts_of(self, key: str) -> Alts | None:
        return self._alts(key) if key in self._in_folder else None

    def notes(self) -> list[str]:
        notes = []
        if self._alts_elsewhere:
            other = self._alts_elsewhere[0]
            notes.append(
                f"Alt-texts are from {self.alt_file}, not from {other}, which is there too."
            )
        elif self._alts_in_folder:
            notes.append(f"Alt-texts are from {self.alt_file}: there is no such file here.")
        if self._scan.problems:
            notes.append(f"Left out in {self.root}: {self._scan.problems}.")
        if self._scan.litter:
            were = counted(
                self._scan.litter.count,
                "file or folder of the system was",
                "files and folders of the system were",
            )
            notes.append(f"{were} left out: {self._scan.litter}.")
        if self._table.problems:
            lines = counted(self._table.problems.count, "line", "lines")
            notes.append(f"{lines} of the alt-text file cannot be used: {self._table.problems}.")
        if self.alts_without_image and not self._is_one_image:  # the others may well be there
            have = counted(self.alts_without_image.count, "alt-text has no", "alt-texts have no")
            notes.append(f"{have} image in the folder: {self.alts_without_image}.")
        if self._given.matched_loosely:
            matched = self._given.matched_loosely
            have = counted(
                matched.count,
                "alt-text has a name spelled otherwise, or relative to another folder, and was",
                "alt-texts have names spelled otherwise, or relative to another folder, and were",
            )
            notes.append(f"{have} matched: {matched}.")
        if self.alt_file is not None:
            notes += self._table.notes.sentences(self.alt_file)
        if self._table.num_truncated:
            have = counted(self._table.num_truncated, "image has", "images have")
            notes.append(
                f"{have} alt-texts of more than {MAX_ALT_CHARS:,} characters: the rest is left "
                "out, and the rows say so."
            )
        if self.alt_file is None:
            for name in ("alts.jsonl", "metadata.jsonl"):
                if (self.root / name).is_file():
                    notes.append(
                        f"{self.root} holds {name}: give --alt {name} to use its alt-texts."
                    )
            for kind, count in beside_hints(self.names, self._scan.texts):
                if kind.startswith(".") and self._out is not None:
                    count -= count_own(self._out, self.root, kind)
                if kind != self._sidecar and count > 0:
                    lie = counted(count, f"{kind} file lies", f"{kind} files lie")
                    notes.append(
                        f"{lie} beside the images: give --alt-beside {kind} to use their texts as "
                        "alt-texts, unless they are captions."
                    )
        return notes

    def unused(self) -> Mapping[str, Problems]:
        return {
            "folders_left_out": self._scan.problems,
            "system_litter": self._scan.litter,
            "alt_lines_unusable": self._table.problems,
            "alts_without_image": self.alts_without_image,
            "alts_matched_loosely": self._given.matched_loosely,
            "alt_lines_windows_1252": self._table.notes.windows_1252,
        }

    def figures(self) -> Mapping[str, int]:
        return {
            "images": len(self.names),
            "other_files": self._scan.num_other,
            "alt_lines_used": self._table.num_used,
            "alts_truncated": self._table.num_truncated,
        }
