"""What this machine can run and what it lacks, found out without importing any of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from altogether_rt import toml
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError
from altogether_rt.machine.cpuinfo import CPUINFO, cpu_features, read_cpuinfo
from altogether_rt.machine.device import check_onnxruntime_gpu, has_module, installed_version
from altogether_rt.machine.gpu import GpuReport, find_gpus

__all__ = [
    "Ability",
    "Machine",
    "Processor",
    "examine",
    "missing_packages",
    "read_processor",
]

_DISTRIBUTION = "altogether-rt"
_FAST_INT8 = {"AVX-VNNI", "AVX512-VNNI", "AMX-INT8", "ARM dot product", "ARM I8MM"}


@dataclass(frozen=True)
class Processor:
    """The processor, as far as captioning cares."""

    name: str
    cores: int  # that this process may use
    features: tuple[str, ...]

    @property
    def fast_int8(self) -> bool:
        return bool(_FAST_INT8 & set(self.features))


@dataclass(frozen=True)
class Ability:
    """Something that the package does, and what this machine lacks for it."""

    name: str
    extra: str  # that brings the packages
    missing: tuple[str, ...] = ()  # sentences without their full stop
    advice: str = ""  # a command, or what else helps

    @property
    def ready(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class Machine:
    """All that `doctor` says."""

    python: str
    processor: Processor
    gpu: GpuReport
    packages: dict[str, str]  # installed ones that matter, with their versions
    providers: tuple[str, ...]  # that the installed onnxruntime comes with
    abilities: tuple[Ability, ...] = field(default=())


def examine(cores: int) -> Machine:
    """Look at everything; well under a second, and nothing heavy is imported."""
    gpu = find_gpus()
    names = {name for extra in ("cpu", "gpu", "tensorrt", "train", "export", "heic")
             for name, _ in _requirements(extra)} | {"tensorrt"}  # fmt: skip
    versions = {name: installed_version(name) for name in sorted(names)}
    return Machine(
        python=platform.python_version(),
        processor=read_processor(cores),
        gpu=gpu,
        packages={name: version for name, version in versions.items() if version is not None},
        providers=_providers(),
        abilities=tuple(_abilities(gpu)),
    )


def _abilities(gpu: GpuReport) -> Iterator[Ability]:
    yield _starter()
    yield _from_packages("caption on the processor", "cpu", _cpu_lacks())
    lacks = [] if gpu.problem is None else [gpu.problem]
    yield _from_packages("caption on a GPU with ONNX Runtime", "gpu", [*lacks, *_cuda_lacks()])
    packages = [
        line
        for line in missing_packages("tensorrt")
        # Either of the two modules will do.
        if not (line.startswith("tensorrt-rtx ") and has_module("tensorrt"))
    ]
    yield _from_packages("caption on a GPU with TensorRT", "tensorrt", [*lacks, *packages])
    yield _from_packages("train, import, init", "train", missing_packages("train"))
    yield _from_packages("export", "export", missing_packages("export"))
    yield _from_packages("read HEIC images", "heic", missing_packages("heic"))


def _from_packages(name: str, extra: str, missing: Sequence[str]) -> Ability:
    advice = ""
    if any("is not installed" in line or "is needed" in line for line in missing):
        advice = f"pip install 'altogether-rt[{extra}]'"
    return Ability(name, extra, tuple(missing), advice)


def _starter() -> Ability:
    try:
        Bundle.load("starter")
    except AltogetherError as error:
        lacks = (str(error).rstrip("."),)
        return Ability(
            "the starter bundle", "", lacks, "pip install --force-reinstall altogether-rt"
        )
    return Ability("the starter bundle", "")


def _cpu_lacks() -> list[str]:
    other = installed_version("onnxruntime-gpu")
    if other is not None:
        return [
            f"onnxruntime-gpu {other} is installed in place of onnxruntime: use another "
            "environment for bundles for the processor"
        ]
    return missing_packages("cpu")


def _cuda_lacks() -> list[str]:
    if installed_version("onnxruntime-gpu") is None and installed_version("onnxruntime") is None:
        return missing_packages("gpu")
    try:
        check_onnxruntime_gpu()
    except AltogetherError as error:
        return [str(error).rstrip(".")]
    return missing_packages("gpu")


def missing_packages(extra: str) -> list[str]:
    """What an extra would bring that is not installed, or too old; a sentence each."""
    lacks = []
    for name, least in _requirements(extra):
        version = installed_version(name)
        if version is None:
            lacks.append(f"{name} is not installed")
        elif _numbers(version) < _numbers(least):
            lacks.append(f"{name} {version} is too old: {least} is needed")
    return lacks


def _requirements(extra: str) -> Iterator[tuple[str, str]]:
    """Packages of an extra with their least versions, as the installed package declares them."""
    for line in _declared():
        needed, _, marker = line.partition(";")
        if not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            continue
        found = re.match(r"\s*([\w.-]+)(?:\[([\w,-]+)\])?(?:.*?>=\s*([\d.]+))?", needed)
        if found is None:
            continue
        name, extras, least = found.groups()
        name = name.replace("_", "-").lower()
        if name == _DISTRIBUTION:
            for inner in (extras or "").split(","):
                yield from _requirements(inner)
        else:
            yield name, least or "0"


def _declared() -> list[str]:
    """Requirements as packages declare them: `onnx>=1.20; extra == "export"`."""
    try:
        return importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, not installed
        project = Path(__file__).parents[2] / "pyproject.toml"
        extras = toml.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
        return [f"{line}; extra == '{name}'" for name, lines in extras.items() for line in lines]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _providers() -> tuple[str, ...]:
    """Provider libraries beside onnxruntime's own, which always has the processor's."""
    spec = importlib.util.find_spec("onnxruntime") if has_module("onnxruntime") else None
    if spec is None or spec.origin is None:
        return ()
    libraries = Path(spec.origin).parent.glob("capi/*onnxruntime_providers_*")
    found = {re.sub(r"^.*providers_(\w+)\..*$", r"\1", path.name) for path in libraries}
    return ("cpu", *sorted(found - {"shared"}))


def read_processor(cores: int, cpuinfo: Path = CPUINFO) -> Processor:
    """Name and features of the processor; none where the system does not tell."""
    values = read_cpuinfo(cpuinfo)
    if not values:
        return Processor(platform.processor() or platform.machine(), cores, ())
    name = values.get("model name") or platform.machine()
    return Processor(name, cores, cpu_features(values))
