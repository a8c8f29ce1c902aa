"""Publishes a bundle on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from altogether_rt.hub.repository import client_errors, endpoint, import_hub

__all__ = ["push_bundle"]


def push_bundle(
    files: Mapping[str, Path | bytes], hub_id: str, message: str, *, public: bool, quiet: bool
) -> str:
    """Upload files, each given by its path or its content, in one commit; returns the commit.

    quiet: without the client's progress. A repository that does not exist is created, for its owner
    alone unless `public`. Raises AltogetherError, one sentence, if the hub does not take it.
    """
    hub = import_hub(f"publishing {hub_id}")
    if quiet:
        hub.utils.disable_progress_bars()
    operations = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in files.items()
    ]
    with client_errors(hub_id, publishing=True):
        api = hub.HfApi(endpoint=endpoint(), library_name="altogether-rt")
        api.create_repo(hub_id, private=not public, exist_ok=True)
        commit = api.create_commit(hub_id, operations, commit_message=message)
    return str(commit.oid)
