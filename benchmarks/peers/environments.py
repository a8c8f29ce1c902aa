"""An environment for each contestant, made once and kept in the work folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from harness.contestant import ROOT

from peers.contestants import ENVIRONMENTS

__all__ = ["folder_bytes", "make_environments", "python_of", "versions_of"]

_OURS = "altogether-rt"


def python_of(work: Path, name: str) -> Path:
    """The interpreter of an environment."""
    return work / "environments" / name / "bin" / "python"


def make_environments(work: Path, names: Iterable[str]) -> None:
    """Make those that are missing or whose requirements have changed. Exits if pip fails."""
    for name in names:
        requirements = ENVIRONMENTS[name]
        folder = python_of(work, name).parent.parent
        if requirements[0].startswith(_OURS):
            _install_ours(requirements[0], folder)
            continue
        stamp = folder / "requirements.json"
        if stamp.is_file() and json.loads(stamp.read_text()) == list(requirements):
            continue
        print(f"environment {name}: {', '.join(requirements)}", file=sys.stderr, flush=True)
        if not python_of(work, name).exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python_of(work, name)), "-m", "pip", "--disable-pip-version-check"]
        constraint = ["--constraint", str(ROOT / "constraints.txt")]
        done = subprocess.run([*pip, "install", "-qq", *constraint, *requirements])
        if done.returncode:
            raise SystemExit(f"pip could not make the environment {name}.")
        stamp.write_text(json.dumps(requirements))


def _install_ours(requirement: str, folder: Path) -> None:
    """Install this checkout with its extras; done again when its sources have changed."""
    extras = requirement.removeprefix(f"{_OURS}[").removesuffix("]")
    command = [sys.executable, str(ROOT / "tasks.py"), "install", "--extras", extras]
    done = subprocess.run([*command, "--venv", str(folder.resolve())], stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"the environment {folder.name} could not be made.")


def versions_of(work: Path, name: str) -> dict[str, str]:
    """Versions of all packages that are installed in an environment."""
    command = [str(python_of(work, name)), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {package["name"]: package["version"] for package in listed}


def folder_bytes(folder: Path) -> int:
    """Size of a folder's files; links are not followed below it."""
    total = 0
    for parent, _, files in os.walk(folder.resolve()):
        for file in files:
            path = Path(parent, file)
            total += 0 if path.is_symlink() else path.stat().st_size
    return total
