"""What a run is: kept in its folder, compared when it is resumed, and written to its checkpoint."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.artifacts.files import write_whole
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.train.data import Dataset
from altogether_rt.train.folder import RECORD_NAME
from altogether_rt.train.prepared import PreparedImages
from altogether_rt.train.recipe import TrainRecipe

__all__ = ["RunRecord", "checkpoint_identity", "package_versions"]

#: Keys that say where something is, not what it is (the configuration and the data are compared by
#: content), or how often something is written; a resumed run may have others.
_FREE_KEYS: Final = {
    "recipe.config",
    "recipe.data.path",
    "recipe.log_every_steps",
    "recipe.sample_every_steps",
    "recipe.save_every_steps",
    "config.name",
    "init.name",
}
_MAX_NAMED: Final = 6

_PACKAGES: Final = ("numpy", "open_clip_torch", "pillow", "tokenizers", "torch")


@dataclass
class RunRecord:
    """Everything that decides a run's weights."""

    recipe: dict[str, Any]
    config: dict[str, Any]  # of the captioner
    init: dict[str, Any] | None  # hashes of the checkpoint it started from
    data: dict[str, Any] = field(default_factory=dict)  # known once the images are prepared
    threads: dict[str, int] = field(default_factory=dict)  # by stage
    stages: dict[str, Any] = field(default_factory=dict)  # histories of those that are done
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def new(
        cls, recipe: TrainRecipe, config: CaptionerConfig, start: Checkpoint | None
    ) -> RunRecord:
        """The record of a run that begins now; of paths, it keeps the names."""
        init = None if start is None else checkpoint_identity(start)
        plain = asdict(recipe)
        for stage in ("encoder", "pretrain", "finetune"):  # older records do not have this key
            if plain[stage] and not plain[stage]["optimization"]["gradient_checkpointing"]:
                del plain[stage]["optimization"]["gradient_checkpointing"]
        plain["config"] = Path(recipe.config).name
        plain["data"]["path"] = Path(recipe.data.path).name
        plain["data"].pop("images")  # what they show is compared
        return cls(plain, config.to_dict(), init, versions=package_versions())

    @classmethod
    def read(cls, folder: Path) -> RunRecord | None:
        """The record of the run in `folder`; None if it has none. Raises AltogetherError."""
        path = folder / RECORD_NAME
        try:
            data = json.loads(path.read_text("utf-8"))
            record = cls(**data)
            if not all(
                isinstance(part, dict) for part in vars(record).values() if part is not None
            ):
                raise TypeError("a part is not an object")
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError) as error:
            raise AltogetherError(
                f"{path} is not the record of a training run ({error}): remove its folder, or give "
                "another --out."
            ) from error
        return record

    def write(self, folder: Path) -> None:
        """Write it whole to the folder of the run."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_whole(folder / RECORD_NAME, text + "\n")

    def note_data(
        self, source: str, dataset: Dataset, images: PreparedImages, num_held_out: int
    ) -> None:
        """Record what is trained on."""
        digest = hashlib.sha256()
        for index in range(len(dataset)):
            digest.update(f"{dataset.texts_id(index)}\n".encode("utf-8", "surrogatepass"))
        bad_lines = getattr(dataset, "bad_lines", None)
        self.data = {
            "source": source,
            "examples": len(dataset),
            "held_out": num_held_out,
            "images_left_out": len(images.bad),
            "lines_left_out": bad_lines.count if bad_lines else 0,
            "images_sha256": images.sha256(),
            "texts_sha256": digest.hexdigest(),
        }

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint says of its run: all but the configuration, which is beside it."""
        return {key: value for key, value in asdict(self).items() if key != "config"}

    def differences(self, other: RunRecord) -> list[str]:
        """What makes `other` another run, by name, with the values here and there.

        Of the data, what both know is compared.
        """
        found = []
        for title in ("recipe", "config", "init"):
            before, now = ({title: asdict(record)[title]} for record in (self, other))
            found += list(_different(before, now))
        if self.data and other.data:
            found += list(_different_data(self.data, other.data))
        return found

    def check_same(self, other: RunRecord, folder: Path) -> None:
        """Raises AltogetherError, which names what differs, if `other` is another run."""
        found = self.differences(other)
        if found:
            more = f"; and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
            raise AltogetherError(
                f"{folder} holds a run of something else, which cannot be resumed with this: "
                f"{'; '.join(found[:_MAX_NAMED])}{more}. Give what it began with, or another --out."
            )


def checkpoint_identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint is, wherever it lies."""
    origin = checkpoint.about.get("hub")  # where its weights were published, with their licence
    identity = {"name": checkpoint.folder.resolve().name, "sha256": checkpoint.sha256()}
    return identity if origin is None else {**identity, "hub": origin}


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _different(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """`recipe.seed (7 then, 8 now)` for each value that differs."""
    if where in _FREE_KEYS:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            inner = f"{where}.{key}" if where else str(key)
            yield from _different(before.get(key), now.get(key), inner)
    elif _plain(before) != _plain(now):
        yield f"{where} ({_short(before)} then, {_short(now)} now)"


def _different_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before.get("examples") != now.get("examples"):
        yield f"data ({before.get('examples')} examples then, {now.get('examples')} now)"
    elif before.get("images_sha256") != now.get("images_sha256"):
        yield "data (images have changed)"
    if before.get("texts_sha256") != now.get("texts_sha256"):
        yield "data (captions, alt-texts or names have changed)"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", "given"))
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
