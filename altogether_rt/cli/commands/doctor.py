"""`altogether-rt doctor`: what this machine can run, and what to install for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from altogether_rt import __version__
from altogether_rt.cli.output import Output, format_bytes
from altogether_rt.hub.target import choose_target
from altogether_rt.machine.limits import MachineLimits, read_limits
from altogether_rt.machine.report import Machine, Processor, examine

__all__ = ["doctor_command"]


def doctor_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False,
) -> None:
    """Show what this machine can run, what is missing, and the command that installs it."""
    output = Output(as_json=as_json)
    machine = examine(read_limits())
    if as_json:
        output.result(_data(machine))
        return
    output.show(output.table(f"altogether-rt {__version__}", ("this machine", ""), _facts(machine)))
    for ability in machine.abilities:
        if ability.ready:
            output.show(f"ready    {ability.name}")
            continue
        output.show(f"missing  {ability.name}: {'; '.join(ability.missing)}.")
        if ability.advice:
            output.show(f"         -> {ability.advice}")
    output.show(machine.on_gpu)
    output.show(f"A name (--bundle smolvlm-500m) means {choose_target()}.")


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    processor, gpu = machine.processor, machine.gpu
    yield "Python", machine.python
    limits = machine.limits
    yield "processor", f"{processor.name}, {limits.num_processors} cores"
    yield "cores to use", f"{limits.cores}{_why_fewer(limits)}"
    if limits.memory_bytes is not None:
        limited = limits.memory_limit_bytes == limits.memory_bytes
        yield (
            "memory to use",
            format_bytes(limits.memory_bytes)
            + (" (limit of the control group)" if limited else ""),
        )
    yield "features", _features(processor)
    if gpu.cuda_version is not None:
        yield "NVIDIA driver", f"for CUDA up to {gpu.cuda_version}"
    for each in gpu.gpus:
        capability = f"compute capability {each.sm // 10}.{each.sm % 10}"
        yield f"cuda:{each.index}", f"{each.name}, {capability}, {format_bytes(each.memory_bytes)}"
    if not gpu.gpus:
        yield "GPU", "none"
    for name, version in machine.packages.items():
        providers = f" ({', '.join(machine.providers)})" if name.startswith("onnxruntime") else ""
        yield name, version + providers


def _features(processor: Processor) -> str:
    if not processor.features:  # the system does not say, or not in a way that is read
        return "unknown"
    speed = "fast at int8" if processor.fast_int8 else "no int8 dot products: int8 is slower"
    return f"{', '.join(processor.features)} ({speed})"


def _why_fewer(limits: MachineLimits) -> str:
    reasons = []
    if limits.num_affine < limits.num_processors:
        reasons.append(f"bound to {limits.num_affine} of them")
    if limits.quota is not None:
        reasons.append(f"quota of the control group: {limits.quota:g}")
    return f" ({', '.join(reasons)})" if reasons else ""


def _data(machine: Machine) -> dict[str, Any]:
    abilities = [
        {**asdict(ability), "missing": list(ability.missing), "ready": ability.ready}
        for ability in machine.abilities
    ]
    processor = {**asdict(machine.processor), "fast_int8": machine.processor.fast_int8}
    limits = {
        **asdict(machine.limits),
        "cores": machine.limits.cores,
        "memory_bytes": machine.limits.memory_bytes,
    }
    data = {**asdict(machine), "processor": processor, "limits": limits, "abilities": abilities}
    target = choose_target()
    by_name = {"target": target.name, "why": target.why}
    return {"version": __version__, **data, "by_name": by_name}
