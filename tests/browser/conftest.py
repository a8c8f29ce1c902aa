"""A browser for the pages, where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from altogether_rt.annotation.work import Work
from altogether_rt.scenes.dataset import write_scenes
from tests.annotation.people import begin
from tests.browser.driver import AXE, Browser, missing_browser


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    reason = missing_browser()
    if reason is not None:
        pytest.skip(reason)
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(_browser: Browser) -> Iterator[Browser]:
    """A headless Chromium on an empty page, in light colours and at a laptop's size."""
    _browser.resize(1366, 820)
    _browser.colour_scheme("light")
    _browser.open("about:blank")
    _browser.requests()
    _browser.console()
    yield _browser
    _browser.open("about:blank")


@pytest.fixture
def assert_accessible(browser: Browser) -> Callable[[], None]:
    """Checks that axe-core finds no serious fault in the page as it is."""
    if not AXE.is_file():
        pytest.skip("needs axe-core: tests/browser/install.sh")

    def check() -> None:
        # A colour on its way to another is none that anybody reads.
        browser.wait("return document.getAnimations().every(a => a.playState !== 'running')")
        assert browser.axe() == []

    return check


@pytest.fixture
def assert_only_loopback(browser: Browser) -> Callable[[str], None]:
    """Checks that pages asked for nothing but what is below an address, and broke no policy."""

    def check(url: str) -> None:
        asked = [r for r in browser.requests() if not r.startswith(("chrome:", "data:", "about:"))]
        assert asked and all(request.startswith(url) for request in asked), asked
        assert browser.console() == []

    return check


@pytest.fixture
def downloads(browser: Browser, tmp_path: Path) -> Path:
    """Where the browser's downloads go."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.devtools(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )
    return folder


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    list(write_scenes(folder, 4, 3, "test"))
    return folder


@pytest.fixture
def work(scenes: Path, tmp_path: Path) -> Work:
    return begin(scenes, tmp_path / "work")[0]
