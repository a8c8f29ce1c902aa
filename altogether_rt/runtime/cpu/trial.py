"""Runs a bundle's graphs in another process first, if this machine has never run them.

onnxruntime trusts its graphs: a damaged or hostile one can end the process or take all memory.
Graphs that have been run once are remembered by their hashes in the user's cache, so this costs a
second when a bundle is new, and nothing later. The starter is part of the package, and is trusted
like it.
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np

from altogether_rt.artifacts.bundle import Bundle, is_starter
from altogether_rt.artifacts.files import write_whole
from altogether_rt.artifacts.private import is_private, make_private_folder
from altogether_rt.artifacts.user_cache import user_cache
from altogether_rt.errors import AltogetherError, BundleError, reason
from altogether_rt.machine.device import installed_version
from altogether_rt.runtime.base import StepBatch, StepRow
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.graph_files import check_graph_files

__all__ = ["ensure_tried", "remember_tried", "run_trial"]

_PACKAGE: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from altogether_rt.runtime.cpu.trial import run_trial; run_trial(sys.argv[2])"
)

#: What a trial may take, on top of what the size of the bundle explains.
_MEMORY_BYTES: Final = 3 << 29
_SECONDS: Final = 120.0
_BYTES_PER_SECOND: Final = 10e6


def ensure_tried(bundle: Bundle) -> None:
    """Raises BundleError if the graphs of `bundle`, whose hashes were checked, do not run here.

    Also if they open files that the manifest does not list.
    """
    if is_starter(bundle.path) or _is_remembered(bundle):
        return
    check_graph_files(bundle)
    num_bytes = sum(spec.bytes for spec in bundle.manifest.files.values())
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(_PACKAGE.parent), str(bundle.path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS + num_bytes / _BYTES_PER_SECOND,
            check=False,
        )
        code, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired:
        code, said = -signal.SIGXCPU, b""
    if code != 0:
        raise BundleError(_message(bundle, code, said))
    remember_tried(bundle)


def remember_tried(bundle: Bundle) -> None:
    """Remember that the graphs of `bundle` have been run, as an export has just done.

    Where the cache cannot be written, they are run again the next time.
    """
    record = _record(bundle)
    try:
        make_private_folder(record.parent.parent)
        make_private_folder(record.parent)
        write_whole(record, "")
        record.chmod(0o644)
    except (OSError, AltogetherError):
        return


def _is_remembered(bundle: Bundle) -> bool:
    record = _record(bundle)
    return all(map(is_private, (record.parent.parent, record.parent, record)))


def run_trial(path: str) -> None:
    """The other process: opens the bundle and writes a token. Exits 1 with a sentence on stdout."""
    try:
        bundle = Bundle.load(path, verify_hashes=False)
        num_bytes = sum(spec.bytes for spec in bundle.manifest.files.values())
        most = _MEMORY_BYTES + 5 * num_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _run(bundle)
    except Exception as error:  # whatever it is, the bundle cannot be used
        print(str(error) if isinstance(error, AltogetherError) else reason(error))
        raise SystemExit(1 if isinstance(error, AltogetherError) else 2) from None


def _run(bundle: Bundle) -> None:
    """Two images through every graph: the longest prompt, the next token, the last that fits."""
    config = bundle.config
    size, rng = config.encoder.image_size, np.random.default_rng(0)
    width, prefix = config.decoder.token_width, config.mapper.prefix_length
    with OnnxRuntime(bundle, threads=1, num_slots=2) as runtime:
        pixels = rng.integers(0, 256, (2, size, size, 3), np.uint8)
        embeddings = runtime.encode(pixels)
        visual = runtime.map(embeddings)
        shapes = ((2, *config.encoder.embedding_shape), (2, prefix, width))
        if (embeddings.shape, visual.shape) != shapes:
            raise ValueError("they compute arrays of other shapes than the configuration says")
        token, prompt = [config.decoder.eos_id], config.max_prompt_tokens
        text = token * (prompt - prefix)
        runtime.step(StepBatch.from_rows([StepRow(text, 0, tokens) for tokens in visual], width))
        for past in (prompt, config.capacity - 1):
            result = runtime.step(
                StepBatch.from_rows([StepRow(token, past)] * 2, width), want_logits=True
            )
            if result.logits is None or not np.isfinite(result.logits).all():
                raise ValueError("they compute no finite numbers")


def _message(bundle: Bundle, code: int, said: bytes) -> str:
    text = said.decode("utf-8", "replace").strip().splitlines()
    if code == 1 and text:
        return text[-1]
    if code < 0:
        try:
            how = f"end the process that runs them ({signal.Signals(-code).name})"
        except ValueError:
            how = "end the process that runs them"
    else:
        how = f"cannot be run ({text[-1] if text else f'exit code {code}'})"
    return (
        f"the graphs of {bundle.path} {how}: give a bundle made by altogether-rt export, or export "
        "it again."
    )


def _record(bundle: Bundle) -> Path:
    manifest = bundle.manifest
    identity = [
        manifest.bundle_id,
        {
            name: spec.sha256
            for name, spec in manifest.files.items()
            if name != manifest.drafting_state
        },
        [installed_version(name) for name in ("onnxruntime", "onnxruntime-gpu")],
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return user_cache() / "tried" / digest[:32]
