"""Generation and speculation load no backend: of `runtime` only the contract."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_structure import CONTRACT

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    "package",
    ["generation.engine", "generation.requests", "generation.stream", "speculation.store"],
)
def test_no_backend_is_loaded(package: str) -> None:
    code = (
        f"import sys, altogether_rt.{package}; "
        "print(*sorted(m for m in sys.modules if m.startswith('altogether_rt.runtime')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"altogether_rt.runtime", *CONTRACT}
