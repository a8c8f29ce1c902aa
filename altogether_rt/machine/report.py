"""What this machine can run and what is missing, found out without importing backends."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError
from altogether_rt.machine.cpuinfo import CPUINFO, cpu_features, read_cpuinfo
from altogether_rt.machine.device import (
    check_onnxruntime_gpu,
    driver_problem,
    has_module,
    installed_version,
    onnxruntime_providers,
)
from altogether_rt.machine.gpu import GpuReport, find_gpus
from altogether_rt.machine.limits import MachineLimits
from altogether_rt.machine.torch_gpu import kernels_problem, torch_problem

__all__ = [
    "CHECKPOINT_PACKAGES",
    "Ability",
    "Machine",
    "Processor",
    "examine",
    "missing_packages",
    "onnxruntime_on_gpu",
    "read_processor",
    "torch_on_gpu",
]

_DISTRIBUTION = "altogether-rt"
_ABSENT, _NEEDED = " is not installed", " is needed"  # how sentences of missing packages end
_WITH_TORCH, _WITH_ONNX = "caption on a GPU with PyTorch", "caption on a GPU with ONNX Runtime"
#: Of the extra `train`, what a checkpoint is opened and trained with. The extra's other packages
#: serve some encoders, and logs for TensorBoard, which training does without where it is missing.
CHECKPOINT_PACKAGES = ("torch", "safetensors", "open-clip-torch")
_EXPORT_PACKAGES = (*CHECKPOINT_PACKAGES, "onnx", "onnxruntime", "onnxscript")
_FAST_INT8 = {"AVX-VNNI", "AVX512-VNNI", "AMX-INT8", "ARM dot product", "ARM I8MM"}


@dataclass(frozen=True)
class Processor:
    """What matters to captioning about the processor."""

    name: str
    cores: int  # that this process may use
    features: tuple[str, ...]

    @property
    def fast_int8(self) -> bool:
        return bool(_FAST_INT8 & set(self.features))


@dataclass(frozen=True)
class Ability:
    """Something that the package can do, and what is missing for it on this machine."""

    name: str
    extra: str  # installs the packages
    missing: tuple[str, ...] = ()  # sentences without full stop
    advice: str = ""  # a command that helps

    @property
    def ready(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class Machine:
    """All that `doctor` reports."""

    python: str
    processor: Processor
    limits: MachineLimits
    gpu: GpuReport
    packages: dict[str, str]  # relevant installed packages and their versions
    providers: tuple[str, ...]  # of the installed onnxruntime
    abilities: tuple[Ability, ...] = field(default=())
    on_gpu: str = ""  # a sentence: what `--device cuda` runs here, and why


def examine(limits: MachineLimits) -> Machine:
    """Examine everything; takes well under a second and imports nothing heavy."""
    gpu = find_gpus()
    names = {name for extra in ("cpu", "gpu", "tensorrt", "train", "export", "heic")
             for name, _ in _requirements(extra)} | {"tensorrt"}  # fmt: skip
    versions = {name: installed_version(name) for name in sorted(names)}
    abilities = tuple(_abilities(gpu))
    return Machine(
        python=platform.python_version(),
        processor=read_processor(limits.cores),
        limits=limits,
        gpu=gpu,
        packages={name: version for name, version in versions.items() if version is not None},
        providers=onnxruntime_providers(),
        abilities=abilities,
        on_gpu=_on_gpu(gpu, {ability.name: ability for ability in abilities}),
    )


def _on_gpu(gpu: GpuReport, abilities: Mapping[str, Ability]) -> str:
    """What `--device cuda` runs, the fastest first, and why."""
    if gpu.problem is not None:
        return f"--device cuda cannot be used: {gpu.problem}."
    if abilities[_WITH_TORCH].ready:
        problem = kernels_problem(gpu.gpus[0].sm)
        if problem is None:
            return (
                "--device cuda captions fastest with a checkpoint: PyTorch in float16, with "
                "kernels in Triton that read each caption's own length."
            )
        return f"--device cuda captions with a checkpoint in plain PyTorch, slower: {problem}."
    missing = "; ".join(abilities[_WITH_TORCH].missing)
    if abilities[_WITH_ONNX].ready:
        return (
            "--device cuda captions with bundles for cuda, with ONNX Runtime; a checkpoint with "
            f"PyTorch would be faster: {missing}."
        )
    return f"--device cuda cannot be used yet: {missing}."


def _abilities(gpu: GpuReport) -> Iterator[Ability]:
    yield _starter()
    checkpoints = missing_packages("train", CHECKPOINT_PACKAGES)
    yield _from_packages("caption on the processor with ONNX Runtime", "cpu", _missing_for_cpu())
    yield _from_packages("caption on the processor with PyTorch", "train", checkpoints)
    yield onnxruntime_on_gpu(gpu)
    yield torch_on_gpu(gpu)
    yield _from_packages(
        "caption on a GPU with TensorRT", "tensorrt", [*_no_cuda(gpu), *_missing_for_tensorrt()]
    )
    yield _from_packages("train, import weights, init", "train", checkpoints)
    logs = missing_packages("train", ("tensorboard",))
    yield _from_packages("log training for TensorBoard", "train", logs)
    export = missing_packages("export", _EXPORT_PACKAGES)
    yield _from_packages("export, import bundles", "export", export)
    yield _from_packages("read HEIC images", "heic", missing_packages("heic"))


def onnxruntime_on_gpu(gpu: GpuReport) -> Ability:
    """To caption with bundles for cuda."""
    return _from_packages(_WITH_ONNX, "gpu", [*_no_cuda(gpu), *_missing_for_cuda()])


def torch_on_gpu(gpu: GpuReport) -> Ability:
    """To caption with checkpoints, with Triton's kernels or without them."""
    no_gpu = [] if gpu.problem is None else [gpu.problem]
    no_torch = torch_problem(gpu)
    packages = missing_packages("train", CHECKPOINT_PACKAGES)
    without = packages or ([] if no_torch is None else [no_torch])
    return _from_packages(_WITH_TORCH, "train", [*no_gpu, *without])


def _no_cuda(gpu: GpuReport) -> Iterator[str]:
    """What keeps packages that are built for a certain CUDA from a GPU."""
    yield from filter(None, (gpu.problem, driver_problem(gpu)))


def _from_packages(name: str, extra: str, missing: Sequence[str]) -> Ability:
    to_install = [line for line in missing if line.endswith((_ABSENT, _NEEDED))]
    advice = f"pip install 'altogether-rt[{extra}]'" if to_install else ""
    if extra == "export" and installed_version("onnxruntime-gpu") is not None:
        # The extra would install onnxruntime beside it, and each overwrites the other's module.
        advice = " ".join(["pip install", *_by_name(extra, to_install)]) if to_install else ""
    return Ability(name, extra, tuple(missing), advice)


def _by_name(extra: str, missing: Sequence[str]) -> Iterator[str]:
    """The requirements that `missing` is about, quoted for a shell."""
    absent = {line.partition(" ")[0] for line in missing}
    for name, min_version in _requirements(extra):
        if name in absent:
            yield f"'{name}>={min_version}'"


def _starter() -> Ability:
    try:
        Bundle.load("starter")
    except AltogetherError as error:
        missing = (str(error).rstrip("."),)
        return Ability(
            "the starter bundle", "", missing, "pip install --force-reinstall altogether-rt"
        )
    return Ability("the starter bundle", "")


def _missing_for_cpu() -> list[str]:
    cpu, other = installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    if cpu is not None and other is not None:
        return [
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: run "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'altogether-rt[cpu]', "
            "and use another environment for a GPU"
        ]
    if other is not None:
        return [
            f"onnxruntime-gpu {other} is installed instead of onnxruntime: use another "
            "environment for CPU bundles"
        ]
    return missing_packages("cpu")


def _missing_for_cuda() -> list[str]:
    if not has_module("onnxruntime"):
        return missing_packages("gpu")
    try:
        check_onnxruntime_gpu()
    except AltogetherError as error:
        return [str(error).rstrip(".")]
    # A build of one's own need not be called onnxruntime-gpu.
    return [line for line in missing_packages("gpu") if line != f"onnxruntime-gpu{_ABSENT}"]


def _missing_for_tensorrt() -> list[str]:
    missing = missing_packages("tensorrt")
    if has_module("tensorrt"):  # either of the two modules is enough
        return [line for line in missing if not line.startswith("tensorrt-rtx ")]
    if not missing or (sys.platform, platform.machine()) == ("linux", "x86_64"):
        return missing
    # The extra is empty here: installing it would bring nothing.
    return [
        "the extra tensorrt is for Linux on x86-64 only: install NVIDIA's own tensorrt and "
        "cuda-python"
    ]


def missing_packages(extra: str, only: Collection[str] | None = None) -> list[str]:
    """A sentence for each package of an extra that is not installed or too old.

    only: leave out packages that are not among these.
    """
    missing = []
    for name, min_version in _requirements(extra):
        if only is not None and name not in only:
            continue
        version = installed_version(name)
        if version is None:
            if not _is_provided(name):
                missing.append(f"{name}{_ABSENT}")
        elif _numbers(version) < _numbers(min_version):
            missing.append(f"{name} {version} is too old: {min_version}{_NEEDED}")
    return missing


def _is_provided(name: str) -> bool:
    """Whether the module of `name` is there: from onnxruntime-gpu, or a build of one's own."""
    modules = {"onnxruntime": "onnxruntime", "cuda-python": "cuda.bindings"}
    return name in modules and has_module(modules[name])


def _requirements(extra: str) -> Iterator[tuple[str, str]]:
    """(name, minimum version) of an extra's packages, as the installed package declares them."""
    for line in _declared():
        needed, _, marker = line.partition(";")
        if not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            continue
        found = re.match(r"\s*([\w.-]+)(?:\[([\w,-]+)\])?(?:.*?>=\s*([\d.]+))?", needed)
        if found is None:
            continue
        name, extras, min_version = found.groups()
        name = name.replace("_", "-").lower()
        if name == _DISTRIBUTION:
            for inner in (extras or "").split(","):
                yield from _requirements(inner)
        else:
            yield name, min_version or "0"


def _declared() -> list[str]:
    """Requirements in the form that packages declare them: `onnx>=1.20; extra == "export"`."""
    try:
        return importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from source, not installed
        project = Path(__file__).parents[2] / "pyproject.toml"
        extras = tomllib.loads(project.read_text("utf-8"))["project"]["optional-dependencies"]
        return [f"{line}; extra == '{name}'" for name, lines in extras.items() for line in lines]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def read_processor(cores: int, cpuinfo: Path = CPUINFO) -> Processor:
    """Name and features of the processor, as far as the system provides them."""
    values = read_cpuinfo(cpuinfo)
    if not values:
        return Processor(platform.processor() or platform.machine(), cores, ())
    name = values.get("model name") or platform.machine()
    return Processor(name, cores, cpu_features(values))
