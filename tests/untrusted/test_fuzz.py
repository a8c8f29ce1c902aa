"""A small slice of the fuzzer: `python -m tests.untrusted.fuzz 10000` is the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet")

from tests.untrusted.fuzz import fuzz
from tests.untrusted.worker import run_all


def test_changed_inputs_are_used_or_refused_in_a_sentence(tmp_path: Path) -> None:
    outcomes = list(fuzz(tmp_path, 100, first=20_000))
    assert len(outcomes) == 100
    assert [(kind, o.number, o.message) for kind, o in outcomes if o.failed] == []
    assert {o.kind for _, o in outcomes} == {"used", "refused"}


def test_the_fuzzer_sees_what_it_looks_for() -> None:
    def die() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)

    def fail() -> None:
        raise KeyError("x")

    def fill() -> None:
        bytearray(b"\1") * (1_200 << 20)

    attempts = [die, fail, lambda: None, fill]
    found = [outcome.kind for outcome in run_all([0, 1, 2, 3], lambda number: attempts[number])]
    assert found == ["signal", "traceback", "used", "memory"]
