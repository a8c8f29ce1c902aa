"""TensorRT as a compiler: one ONNX graph to one plan, without a GPU if the package allows it.

One implementation for two packages: `tensorrt_rtx` compiles ahead of time for any of the GPUs that
it lists, all in one plan; `tensorrt` compiles for the GPU of the machine it runs on.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from altogether_rt.artifacts.engines import EngineProfile
from altogether_rt.artifacts.files import new_file, write_whole
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.machine.device import TENSORRT_MODULES

__all__ = ["BUILDERS", "Builder", "BuilderName", "EngineError", "open_builder"]

BuilderName = Literal["tensorrt", "tensorrt_rtx"]
#: In order of preference: the first one compiles on any machine.
BUILDERS: tuple[BuilderName, ...] = TENSORRT_MODULES


class EngineError(AltogetherError):
    """TensorRT cannot compile a graph, or cannot be used."""


@dataclass(frozen=True)
class Builder:
    """An imported TensorRT package."""

    name: BuilderName
    version: str
    module: Any

    @property
    def targets(self) -> tuple[int, ...]:
        """Compute capabilities it compiles for on any machine; empty: only this machine's GPU."""
        capabilities = dir(getattr(self.module, "ComputeCapability", None))
        return tuple(sorted(int(name[2:]) for name in capabilities if re.match(r"SM\d+$", name)))

    def check_targets(self, sms: Sequence[int]) -> None:
        """Raises EngineError if it cannot compile for one of `sms`."""
        if not sms:
            raise EngineError("no GPU to compile for: give --sm, such as --sm 89.")
        if not self.targets and len(sms) > 1:
            raise EngineError(
                f"{self.name} compiles only for the GPU of this machine: run "
                "pip install tensorrt-rtx to compile for several."
            )
        unknown = [sm for sm in sms if self.targets and sm not in self.targets]
        if unknown:
            known = ", ".join(map(str, self.targets))
            raise EngineError(
                f"{self.name} {self.version} compiles for SM {known}, not for {unknown[0]}: "
                "leave it out; a bundle without engines has them compiled where it is first used."
            )

    def compile(
        self,
        graph: Path,
        profiles: Sequence[EngineProfile],
        sms: Sequence[int],
        out: Path,
        *,
        timing_cache: Path | None = None,
    ) -> None:
        """Compile an ONNX file, whose weights are in its folder, for `sms` into the plan `out`.

        timing_cache: a file of measurements to start from and to extend; only for `tensorrt`, which
        needs a GPU. Raises EngineError, quoting TensorRT, if the graph cannot be compiled.
        """
        self.check_targets(sms)
        if timing_cache is not None:
            self.check_timing_cache()
        log = _log(self.module)
        builder = self.module.Builder(log)
        if builder is None:
            raise EngineError(f"{self.name} does not start: {log.first_error()}.")
        network = builder.create_network(0)  # always strongly typed: precision is in the graph
        parser = self.module.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            raise self._refusal(graph, log)
        config = builder.create_builder_config()
        if self.targets:
            config.num_compute_capabilities = len(sms)
            for index, sm in enumerate(sms):
                capability = getattr(self.module.ComputeCapability, f"SM{sm}")
                if not config.set_compute_capability(capability, index):
                    raise EngineError(
                        f"{self.name} {self.version} does not accept SM {sm} as a target: leave it "
                        "out; a bundle without engines has them compiled where it is first used."
                    )
        for profile in profiles:
            config.add_optimization_profile(_profile(builder, network, profile))
        cache = _load_timing_cache(config, timing_cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._refusal(graph, log)
        with new_file(out) as file:
            file.write(plan)
        if cache is not None and timing_cache is not None:
            write_whole(timing_cache, bytes(cache.serialize()), follow=True)

    def check_timing_cache(self) -> None:
        """Raises EngineError if this package has no timing cache."""
        if self.targets:
            raise EngineError(
                f"{self.name} measures nothing while compiling; a timing cache needs a GPU and the "
                "package tensorrt: leave --timing-cache out."
            )

    def _refusal(self, graph: Path, log: Any) -> EngineError:
        return EngineError(
            f"{self.name} {self.version} cannot compile {graph.name} ({log.first_error()}): "
            "export for another target, such as cpu-int8."
        )


def open_builder(names: Sequence[BuilderName] = BUILDERS) -> Builder:
    """The first package of `names` that is installed and works.

    Raises MissingDependencyError if none is installed, EngineError if none that is installed works.
    """
    broken: EngineError | None = None
    for name in names:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                broken = broken or _broken(name, error)
            continue
        except (ImportError, OSError, RuntimeError) as error:
            broken = broken or _broken(name, error)
            continue
        if not hasattr(module, "Builder"):
            broken = broken or _broken(name, "it holds none of TensorRT's libraries")
            continue
        return Builder(name, str(module.__version__), module)
    if broken is not None:
        raise broken
    raise MissingDependencyError(names[0], "tensorrt", "compiling engines")


def _broken(name: str, reason: object) -> EngineError:
    first_line = (str(reason).splitlines() or [""])[0]
    return EngineError(
        f"the package {name} is installed but does not work ({first_line}): run "
        "pip install 'altogether-rt[tensorrt]'."
    )


def _log(module: Any) -> Any:
    """A logger of the package's own class that keeps the error messages."""

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= module.ILogger.Severity.ERROR:
                self.errors.append(message)

        def first_error(self) -> str:
            """The first error about the graph; without a driver, some are about the driver."""
            about_graph = [line for line in self.errors if "CUDA driver" not in line]
            line = ((about_graph or self.errors or ["no reason given"])[0].splitlines() or [""])[0]
            return line.strip().rstrip(".")[:300]

    return Log()


def _profile(builder: Any, network: Any, profile: EngineProfile) -> Any:
    """TensorRT's form of a profile: all cache inputs have the shape range `past`."""
    made = builder.create_optimization_profile()
    shapes: Mapping[str, Any] = profile.shapes
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        is_cache = name.startswith(("past_key.", "past_value."))
        made.set_shape(name, *shapes["past" if is_cache else name])
    return made


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(f"{path} is not a timing cache of this GPU and version: name a new file.")
    return cache
