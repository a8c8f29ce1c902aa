"""What the hub says of a captioner, and what a failure of its client means to people."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from altogether_rt.artifacts.bundle import MANIFEST_NAME
from altogether_rt.errors import AltogetherError, MissingDependencyError, reason
from altogether_rt.hub.cache import hub_root

__all__ = ["RemoteFile", "RemoteModel", "client_errors", "endpoint", "import_hub", "look_up"]

_TIMEOUT_S: Final = 30.0
_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_MAX_FILES: Final = 10_000

#: The files that an import reads, and no others: weights as safetensors, never a pickle.
_WANTED: Final = re.compile(
    r"(?:config|generation_config|preprocessor_config|processor_config|chat_template|tokenizer|"
    r"tokenizer_config|special_tokens_map|added_tokens|vocab|model\.safetensors\.index)\.json|"
    r"chat_template\.jinja|merges\.txt|model(?:-[0-9]{5}-of-[0-9]{5})?\.safetensors"
)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. One of its hashes is known."""

    name: str
    bytes: int
    sha256: str | None  # of the content
    git_sha1: str | None  # as git names the content


@dataclass(frozen=True)
class RemoteModel:
    """One commit of a repository, with the files that are wanted of it."""

    hub_id: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]
    all_files: tuple[RemoteFile, ...]  # those at the top whose names are plain

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def is_bundle(self) -> bool:
        return any(file.name == MANIFEST_NAME for file in self.all_files)


def import_hub(purpose: str) -> Any:
    """The module huggingface_hub. Raises MissingDependencyError."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "hub", purpose) from error
    return huggingface_hub


def endpoint() -> str | None:
    """The hub's address, where it is not the public one."""
    return os.environ.get("HF_ENDPOINT") or None


def look_up(hub_id: str, revision: str | None) -> RemoteModel:
    """Ask the hub for a commit and its files. Raises AltogetherError, one sentence."""
    hub = import_hub(f"downloading {hub_id}")
    with client_errors(hub_id, revision):
        api = hub.HfApi(endpoint=endpoint(), library_name="altogether-rt")
        info = api.model_info(hub_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    files = tuple(_files(hub_id, info.siblings or []))
    card = info.card_data
    licence = getattr(card, "license", None) or next(
        (tag.partition(":")[2] for tag in info.tags or [] if tag.startswith("license:")), None
    )
    wanted = tuple(file for file in files if _WANTED.fullmatch(file.name))
    model = RemoteModel(hub_id, str(info.sha), str(licence or "unknown")[:80], wanted, files)
    if not model.is_bundle and not any(f.name.endswith(".safetensors") for f in wanted):
        raise AltogetherError(
            f"{hub_id} has no safetensors weights and no bundle, and other kinds of weights are "
            "not downloaded: choose another, see altogether-rt models."
        )
    return model


def _files(hub_id: str, siblings: list[Any]) -> Iterator[RemoteFile]:
    """Files at the top of the repository; a name that could lead elsewhere is left out."""
    if len(siblings) > _MAX_FILES:
        raise AltogetherError(f"{hub_id} lists {len(siblings)} files, too many for a captioner.")
    for sibling in siblings:
        name, size = str(sibling.rfilename), sibling.size
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name):
            continue
        sha256 = getattr(sibling.lfs, "sha256", None)
        if type(size) is not int or size < 0 or not (sha256 or sibling.blob_id):
            raise AltogetherError(
                f"the hub gives no size or no hash of {name} in {hub_id}, so it cannot be checked: "
                "it is not downloaded."
            )
        yield RemoteFile(name, size, sha256, None if sha256 else str(sibling.blob_id))


@contextmanager
def client_errors(
    hub_id: str, revision: str | None = None, *, publishing: bool = False
) -> Iterator[None]:
    """Turn whatever the hub's client and its transport raise into one sentence."""
    hub = import_hub(f"downloading {hub_id}")
    try:
        yield
    except AltogetherError:
        raise
    except Exception as error:  # its transport raises classes of its own, which change with it
        raise AltogetherError(_sentence(hub.errors, error, hub_id, revision, publishing)) from error


def _sentence(
    errors: Any, error: Exception, hub_id: str, revision: str | None, publishing: bool
) -> str:
    """What went wrong and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{hub_id} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it: unset it."
    if publishing and status in (401, 403):
        return (
            f"the hub does not let you publish {hub_id}: log in with hf auth login as somebody who "
            "may write there."
        )
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            f"the hub gives {hub_id} only to people who accepted its terms: accept them on its "
            "page, and log in with hf auth login."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub_id} has no revision {revision}: look on the hub which there are."
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return (
            f"the hub has no {hub_id}, or it is private: check the name, or log in with "
            "hf auth login."
        )
    if status is not None:
        return f"the hub answers {hub_id} with the error {status}: try again later."
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return (
            f"{hub_id} cannot be stored ({reason(error)}): make room in {hub_root()}, or set "
            "XDG_CACHE_HOME to another folder."
        )
    if publishing:
        return f"{hub_id} cannot be published ({reason(error)}): run the command again."
    return (
        f"{hub_id} cannot be fetched from the hub ({reason(error)}): check the connection and run "
        "the command again, which continues where it stopped."
    )
