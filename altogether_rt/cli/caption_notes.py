"""What is said before captioning: that a captioner does not suit what it is given."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from altogether_rt.artifacts.origin import SCENES, trained_on
from altogether_rt.data.images import open_image
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.storage import local_path
from altogether_rt.data.sources.base import Sample, Source
from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.scenes.recognise import is_scene

if TYPE_CHECKING:
    from altogether_rt.jobs.shards.plan import OpenShard
    from altogether_rt.opening import ResolvedCaptioner

__all__ = ["captioner_notes", "shard_notes"]

#: Images looked at, spread over a folder, to see whether they are scenes: with one in twenty that
#: is none, 96 of 100 folders are noticed.
_NUM_LOOKED_AT: Final = 64
#: Samples looked at for an alt-text.
_MAX_SAMPLES: Final = 100_000


def captioner_notes(captioner: ResolvedCaptioner, source: Source) -> list[str]:
    """A sentence for each reason why the captions may not be what is expected."""
    notes = []
    if _knows_scenes_alone(captioner):
        stranger = next((key for key in _no_scenes(source)), None)
        if stranger is not None:
            notes.append(_knows_no_other(captioner, f", and {stranger} is none"))
    if not captioner.config.prompt.use_alt and _has_alts(source):
        notes.append(
            f"{captioner.name} never reads alt-texts: its captions come from the images alone, and "
            "the alt-texts given stand in the rows only."
        )
    if captioner.checkpoint is not None and captioner.checkpoint.slow_because is not None:
        notes.append(
            f"the GPU runs plain PyTorch, which is slower: {captioner.checkpoint.slow_because}."
        )
    return notes


def shard_notes(
    captioner: ResolvedCaptioner, shards: Sequence[Shard], open_shard: OpenShard
) -> list[str]:
    """The same for shards that are to be captioned; of them only the first is looked into.

    One that is not on this machine is not fetched for it: then the note is about any image.
    """
    if not shards or not _knows_scenes_alone(captioner):
        return []
    if local_path(shards[0].url) is None:
        return [_knows_no_other(captioner)]
    try:
        with open_shard(shards[0]) as source:
            stranger = next((key for key in _no_scenes(source)), None)
    except AltogetherError:
        return []  # it is told of when the shard is captioned
    if stranger is None:
        return []
    return [_knows_no_other(captioner, f", and {stranger} in {shards[0].name} is none")]


def _knows_no_other(captioner: ResolvedCaptioner, stranger: str = "") -> str:
    return (
        f"{captioner.name} knows drawn scenes alone (altogether-rt scenes){stranger}: captions of "
        "other images describe scenes. For photographs name another captioner, such as --bundle "
        "smolvlm-500m; altogether-rt models lists them."
    )


def _knows_scenes_alone(captioner: ResolvedCaptioner) -> bool:
    if captioner.bundle is not None:
        return trained_on(captioner.bundle.manifest.provenance.get("checkpoint")) == SCENES
    assert captioner.checkpoint is not None
    try:
        about: Any = json.loads(
            (captioner.checkpoint.folder / "checkpoint.json").read_text("utf-8")
        )
    except (OSError, ValueError, RecursionError):
        return False
    return trained_on({"about": about}) == SCENES


def _no_scenes(source: Source) -> Iterator[str]:
    """Keys of images among those looked at that are no scenes."""
    for sample in _some_samples(source):
        if isinstance(sample.image, ImageError):
            continue
        try:
            with open_image(sample.image) as image:
                if not is_scene(image):
                    yield sample.key
        except (ImageError, MemoryError):
            continue  # it gets its error row later


def _some_samples(source: Source) -> Iterator[Sample]:
    if source.live:
        return iter(())
    if isinstance(source, FolderSource):
        step = max(1, len(source.names) // _NUM_LOOKED_AT)
        return itertools.islice(source.samples(), 0, step * _NUM_LOOKED_AT, step)
    return itertools.islice(source.samples(), _NUM_LOOKED_AT)


def _has_alts(source: Source) -> bool:
    if source.live:
        return False
    return any(sample.alts.texts for sample in itertools.islice(source.samples(), _MAX_SAMPLES))
