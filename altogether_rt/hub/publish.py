"""Publishes a bundle on the hub."""

from __future__ import annotations

from altogether_rt.artifacts.bundle import MANIFEST_NAME, Bundle
from altogether_rt.hub.card import CARD_NAME
from altogether_rt.hub.repository import client_errors, endpoint, import_hub

__all__ = ["push_bundle"]


def push_bundle(bundle: Bundle, hub_id: str, card: str, *, public: bool) -> str:
    """Upload the files of a bundle and its card in one commit; returns the commit.

    A repository that does not exist is created, for its owner alone unless `public`. Raises
    AltogetherError, one sentence, if the hub does not take it.
    """
    hub = import_hub(f"publishing {hub_id}")
    names = (*bundle.manifest.files, MANIFEST_NAME)
    add = hub.CommitOperationAdd
    operations = [add(path_in_repo=name, path_or_fileobj=bundle.path / name) for name in names]
    operations.append(add(path_in_repo=CARD_NAME, path_or_fileobj=card.encode()))
    with client_errors(hub_id, publishing=True):
        api = hub.HfApi(endpoint=endpoint(), library_name="altogether-rt")
        api.create_repo(hub_id, private=not public, exist_ok=True)
        commit = api.create_commit(
            hub_id, operations, commit_message=f"Bundle {bundle.bundle_id} of altogether-rt"
        )
    return str(commit.oid)
