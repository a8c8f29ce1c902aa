"""A hub on this machine with a small captioner of SmolVLM's format, and an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.hub.server import LocalHub, Repository

#: As many bytes are written at once.
CHUNK_BYTES = 1 << 14

HUB_ID = "HuggingFaceTB/SmolVLM-500M-Instruct"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small SmolVLM with random weights, as it is published."""
    pytest.importorskip("torch", reason="needs the extra train")
    from tests.importing.small_vlm import write_smolvlm

    folder = tmp_path_factory.mktemp("published") / "model"
    write_smolvlm(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "altogether-rt" / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with LocalHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        # What the client has made of HF_ENDPOINT when it was imported.
        url = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # Without its waits between attempts, and without its buffer of 10 MB.
        monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=str))
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
        yield server


@pytest.fixture
def smolvlm(hub: LocalHub, published: Path) -> Repository:
    """The repository of the catalogue's smolvlm-500m."""
    repository = Repository.of(published)
    repository.files["pytorch_model.bin"] = b"\x80\x04never to be fetched"
    repository.files["README.md"] = b"# SmolVLM"
    hub.repositories[HUB_ID] = repository
    return repository


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (40, 30), (90 * number, 120, 200)).save(folder / f"{number}.png")
    return folder
