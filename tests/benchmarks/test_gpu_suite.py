"""The GPU suite on a CPU: what depends on what, counting, the table, and all of it at once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu.contestants import Settings
from gpu.jpegs import MEDIAN_SIDE, make_jpegs, other_pixels
from gpu.roofline import Rates, floor_s, whole_costs
from gpu.rows import contestant_row, missing_runtime
from gpu.suite import Suite, cell_of
from gpu.table import fraction_of_floor, to_markdown
from gpu.workload import Workload
from harness.adapters.ours import num_prefilled
from harness.commands import Outcome, Part, write_json
from harness.contestant import Contestant
from harness.schedule import Cell, Deadline, Estimates
from harness.turn import Sweep, Turn, TurnPlan
from PIL import Image

from altogether_rt.bench.cost import Cost
from altogether_rt.config import CaptionerConfig, load_config

TINY = Path(__file__).parent.parent.parent / "benchmarks" / "gpu" / "tiny.toml"


@pytest.fixture
def config() -> CaptionerConfig:
    return load_config(str(TINY))


class Scripted:
    """Outcomes by name, instead of processes; remembers what was asked."""

    def __init__(self, **outcomes: Any) -> None:
        self.outcomes = outcomes
        self.requests: dict[str, list[Any]] = {}

    def run_part(self, part: Part, deadline: Deadline) -> Outcome:
        text = part.command[-1]
        request = json.loads(text) if text.startswith("{") else list(part.command)
        return self._outcome(part.name, request) or Outcome(part.name, "ok")

    def take_turn(
        self, start: Any, plan: TurnPlan, deadline: Deadline, estimates: Estimates
    ) -> Turn:
        name = Path(start.__closure__[1].cell_contents).stem
        sizes = [cell.batch for cell in plan.cells]
        return self._outcome(name, {**plan.options, "batch_sizes": sizes}) or Turn()

    def _outcome(self, name: str, request: Any) -> Any:
        self.requests.setdefault(name, []).append(request)
        outcome = self.outcomes.get(name.replace("-", "_").replace(" ", "_"))
        return outcome(request) if callable(outcome) else outcome

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gpu.suite.run_part", self.run_part)
        monkeypatch.setattr("gpu.suite.take_turn", self.take_turn)
        monkeypatch.setattr("gpu.suite.missing_runtime", lambda device: None)
        monkeypatch.setattr("gpu.suite.NUM_JPEGS", 1)


def run_suite(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> dict[str, Any]:
    scripted.install(monkeypatch)
    settings: dict[str, Any] = {
        "device": "cuda",
        "configs": [str(TINY)],
        "batch_sizes": [1, 8, 32],
        "work": tmp_path,
        "targets": {"cpu-int8": "cuda", "no-such-target": "tensorrt"},
    }
    suite = Suite(
        Settings(**settings | changes), Deadline(500), lambda results: None, lambda line: None
    )
    results: dict[str, Any] = suite.run()["configs"]["tiny"]
    return results


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def test_a_failed_export_skips_its_contestant_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(export_cpu_int8=Outcome("export cpu-int8", "failed", "SM 90 is refused"))
    results = run_suite(scripted, tmp_path, monkeypatch)
    contestants = by_name(results["contestants"])
    assert contestants["cpu-int8"]["status"] == "skipped"
    assert contestants["cpu-int8"]["reason"] == "export cpu-int8 failed: SM 90 is refused"
    assert "no target no-such-target" in contestants["no-such-target"]["reason"]
    others = {"torch-float16", "cpu-fp32", "public-pipeline", "hf-static-compile"}
    assert all(contestants[name]["status"] == "ok" for name in others)
    assert scripted.requests["torch-float16"][0]["batch_sizes"] == [32, 8, 1]
    assert scripted.requests["public-pipeline"][0]["batch_sizes"] == [32]
    assert scripted.requests["end-to-end"][0]["batch_sizes"] == [32]
    assert scripted.requests["cpu-fp32"][0]["batch_sizes"] == []  # parity alone
    assert scripted.requests["cpu-fp32"][0]["device"] == "cpu"


def test_without_a_checkpoint_nothing_else_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(init=Outcome("init", "failed", "the disk is full"))
    results = run_suite(scripted, tmp_path, monkeypatch)
    assert {row["status"] for row in results["contestants"]} == {"skipped"}
    torch = by_name(results["contestants"])["torch-float16"]
    assert torch["reason"] == "init failed: the disk is full"
    assert set(scripted.requests) == {"ceilings", "init"}


def test_contestants_import_from_where_the_suite_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All run in its environment, of which packages unpacked beside Python's own are a part."""
    paths: list[str] = []

    def started(python: str, adapter: str, *, log: Path, variables: dict[str, str]) -> None:
        paths.append(variables["PYTHONPATH"])

    def take_turn(start: Any, *_: object) -> Turn:
        start()
        return Turn()

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/unpacked", "/elsewhere"]))
    monkeypatch.setattr("gpu.suite.Worker", started)
    scripted = Scripted()
    monkeypatch.setattr(scripted, "take_turn", take_turn)
    run_suite(scripted, tmp_path, monkeypatch)
    assert paths
    for path in paths:
        given = path.split(os.pathsep)
        assert str(TINY.parent.parent.parent) in given  # the package of this checkout
        assert given[-2:] == ["/unpacked", "/elsewhere"]


def test_out_of_memory_leaves_the_largest_batch_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torch(request: dict[str, Any]) -> Turn:
        if max(request["batch_sizes"]) > 1:
            return Turn("failed", "torch.OutOfMemoryError: CUDA out of memory.")
        return Turn()

    scripted = Scripted(torch_float16=torch)
    results = run_suite(scripted, tmp_path, monkeypatch)
    row = by_name(results["contestants"])["torch-float16"]
    assert (row["status"], row["sizes_out_of_memory"]) == ("ok", [32, 8])
    sizes = [request["batch_sizes"] for request in scripted.requests["torch-float16"]]
    assert sizes == [[32, 8, 1], [8, 1], [1]]


def test_a_run_that_is_stopped_has_saved_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(request: dict[str, Any]) -> Turn:
        raise KeyboardInterrupt

    out = tmp_path / "out.json"
    Scripted(public_pipeline=stop).install(monkeypatch)
    settings = Settings("cuda", [str(TINY)], [1], tmp_path, {})
    suite = Suite(settings, Deadline(500), lambda r: write_json(out, r), lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        suite.run()
    saved = json.loads(out.read_text())
    assert [row["name"] for row in saved["configs"]["tiny"]["contestants"]] == ["torch-float16"]


def test_a_contestant_loads_once_and_its_largest_batch_is_saved_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = run_fake(tmp_path, monkeypatch, {"check": {"parity": {"step": {"worst_cosine": 0.5}}}})
    log = (tmp_path / "calls").read_text().splitlines()
    assert [line for line in log if line.startswith("load")] == log[:1]
    assert log[-1] == "close"
    runs = [int(line.split()[1]) for line in log if line.startswith("run")]
    assert runs == sorted(runs, reverse=True)
    assert set(runs) == {4, 2, 1}
    # A file with one more size after each, and the whole at the end.
    seen = [[size["batch"] for size in row["data"].get("sizes", [])] for row in saved]
    assert seen == [[4], [2, 4], [1, 2, 4], [1, 2, 4]]
    assert [row["status"] for row in saved] == [*["timeout"] * 3, "ok"]
    assert saved[0]["data"]["parity"]["step"]["worst_cosine"] == 0.5
    assert saved[-1]["data"]["sizes"][2]["tokens_per_s"] == 400
    assert saved[-1]["data"]["sizes"][2]["workload"]["rows"] == 4
    assert saved[-1]["data"]["load_s"] > 0


def test_out_of_memory_in_a_batch_goes_on_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = run_fake(tmp_path, monkeypatch, {"kind": "memory", "room": 2})[-1]
    assert (row["status"], row["sizes_out_of_memory"]) == ("ok", [4])
    assert [size["batch"] for size in row["data"]["sizes"]] == [1, 2]
    assert (tmp_path / "calls").read_text().count("load") == 1


def test_out_of_memory_while_loading_starts_again_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu.suite.NUM_SAMPLES", 1)
    row = run_fake(tmp_path, monkeypatch, {"max_slots": 2})[-1]
    assert (row["status"], row["sizes_out_of_memory"]) == ("ok", [4])
    assert [size["batch"] for size in row["data"]["sizes"]] == [1, 2]
    assert (tmp_path / "calls").read_text().count("load") == 2


def test_a_crash_is_one_contestants_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = run_fake(tmp_path, monkeypatch, {"kind": "dies"})[-1]
    assert row["status"] == "failed"
    assert "exit code 3" in row["reason"]


def test_only_the_contestants_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted()
    results = run_suite(scripted, tmp_path, monkeypatch, only=["vllm", "torch-float16"])
    assert [row["name"] for row in results["contestants"]] == ["torch-float16", "vllm"]
    assert not any(name.startswith("export") for name in scripted.requests)


def run_fake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """The row of one made-up contestant in a process of its own, each time it was saved."""
    fake = Contestant(
        "fake", "fake", None, "fake_adapter:Fake", {}, options | {"log": str(tmp_path / "calls")}
    )
    monkeypatch.setattr("gpu.suite.contestants", lambda settings: [fake])
    monkeypatch.setattr("gpu.suite.run_part", Scripted().run_part)
    monkeypatch.setattr("gpu.suite.BUDGET_S", 0.001)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the adapter is
    saved: list[dict[str, Any]] = []

    def save(results: dict[str, Any]) -> None:
        rows = results["configs"]["tiny"]["contestants"]
        if rows:
            saved.append(json.loads(json.dumps(rows[-1])))

    Suite(
        Settings("cpu", [str(TINY)], [1, 2, 4], tmp_path), Deadline(500), save, lambda line: None
    ).run()
    return saved


def test_a_target_that_nothing_runs_here_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted()
    scripted.install(monkeypatch)
    monkeypatch.setattr("gpu.suite.missing_runtime", lambda device: f"nothing for {device}")
    targets = {"cuda-fp16": "cuda"}
    settings = Settings("cuda", [str(TINY)], [1], tmp_path, targets, only=["cuda-fp16"])
    results = Suite(settings, Deadline(500), lambda r: None, lambda line: None).run()
    row = results["configs"]["tiny"]["contestants"][0]
    assert row["reason"] == "export cuda-fp16 skipped: nothing for cuda"
    assert set(scripted.requests) == {"ceilings", "init"}


def test_what_a_device_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_runtime("cpu") is None
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert missing_runtime("cuda") == "onnxruntime here is the build for processors"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert missing_runtime("cuda") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_runtime("tensorrt") == "neither tensorrt nor tensorrt_rtx is installed"


def test_files_of_the_web_have_the_sizes_that_they_say(tmp_path: Path) -> None:
    paths = make_jpegs(tmp_path / "a", 13, seed=3)
    again = make_jpegs(tmp_path / "b", 2, seed=3)
    assert [path.read_bytes() for path in paths[:2]] == [path.read_bytes() for path in again]
    images = [Image.open(path) for path in paths]
    assert {image.format for image in images} == {"JPEG"}
    sides = sorted(max(image.size) for image in images)
    assert 0.75 * MEDIAN_SIDE < sides[6] < 1.25 * MEDIAN_SIDE
    pixels = [image.width * image.height for image in images]
    bytes_a_pixel = [p.stat().st_size / n for p, n in zip(paths, pixels, strict=True)]
    assert 0.08 < np.median(bytes_a_pixel) < 0.6  # photographs: 0.1 to 0.4


def test_variants_of_a_file_have_pixels_of_their_own(tmp_path: Path) -> None:
    for path in make_jpegs(tmp_path, 3):
        data = path.read_bytes()
        found = [np.asarray(Image.open(io.BytesIO(other_pixels(data, n)))) for n in range(16)]
        assert len({pixels.tobytes() for pixels in found}) == 16
        assert {pixels.shape for pixels in found} == {found[0].shape}
        assert other_pixels(data, 0) == data


def test_large_batches_follow_each_other(config: CaptionerConfig) -> None:
    """The time of one is a share of the time of all."""
    assert (cell_of(8), cell_of(32)) == (Cell(8, 8), Cell(32, 128))
    job = {"images": 128, "seconds": 2.0, "tokens_per_caption": 9.5, "peak_bytes": 1}
    turn = Turn(sweep=Sweep(done={cell_of(32): job}))
    contestant = Contestant("end-to-end", "end-to-end", None, "a:B", {})
    row = contestant_row(contestant, turn, Workload.of(config, 128), [], [])
    (size,) = row["data"]["sizes"]
    assert (size["images_per_s"], size["whole_s"], size["batch"]) == (64.0, 0.5, 32)
    assert (size["images"], size["tokens_per_caption"]) == (128, 9.5)
    assert size["workload"]["rows"] == 32


# Counting


def test_each_call_is_bound_by_operations_or_by_bytes() -> None:
    rates = Rates(operations_per_s=100.0, bytes_per_s=10.0)
    calls = [
        Cost(linear=300, attention=100, bytes=5),  # 4 s of operations, 0.5 s of bytes
        Cost(linear=50, bytes=70),  # 0.5 s and 7 s
    ]
    assert floor_s(calls, rates) == pytest.approx(4 + 7)


def test_the_whole_is_counted_as_by_hand(config: CaptionerConfig) -> None:
    workload = Workload.of(config, 2, new_tokens=2)
    # Alt-texts of 8 and of 8 + 17 tokens, behind 4 visual tokens.
    assert workload.prompt_lengths == [12, 29]
    costs = whole_costs(workload, config.encoder, 2)
    assert costs is not None
    encoder, mapper, prefill, step = costs
    # ViT: 4 patches of 3·16² numbers to 32, 5 positions, one layer of 12·32² weights, head 32·16.
    assert encoder.linear == 2 * 2 * (4 * 768 * 32 + 5 * 12 * 32**2 + 32 * 16)
    assert encoder.bytes == 2 * (768 * 32 + 12 * 32**2 + 32 * 16)
    # Mapper: 16 to 4·64, then 8 positions through one layer of 4·64² + 2·64·128 weights.
    assert mapper.linear == 2 * 2 * (16 * 256 + 8 * (4 * 64**2 + 2 * 64 * 128))
    # Decoder: two layers of 4·64² + 2·64·128 weights; a token of each row is chosen of 512.
    body, head = 2 * (4 * 64**2 + 2 * 64 * 128), 64 * 512
    assert prefill.linear == 2 * (41 * body + 2 * head)
    assert step.linear == 2 * (2 * body + 2 * head)
    # The step reads caches of 12 and 29 tokens, and writes and reads one more in each: two layers,
    # keys and values of 64, 2 bytes each.
    assert step.bytes == 2 * (body + head + 2 * 64) + 2 * 2 * 2 * 64 * (12 + 29 + 4)


def test_the_workload_fits_the_captioner(config: CaptionerConfig) -> None:
    workload = Workload.of(config, 40)
    assert workload.new_tokens == 16  # the configuration has no room for 64
    assert {min(workload.text_lengths), max(workload.text_lengths)} == {8, 32}
    assert [len(ids) for ids in workload.prompt_ids] == workload.text_lengths
    assert max(workload.prompt_lengths) + workload.new_tokens <= config.capacity
    assert workload.pixels.shape == (40, 32, 32, 3)


def test_a_prefill_is_what_the_engine_would_bring(config: CaptionerConfig) -> None:
    many = Workload.of(config, 200)
    together = num_prefilled(many.prompt_lengths, 2048)
    assert sum(many.prompt_lengths[:together]) >= 2048 > sum(many.prompt_lengths[: together - 1])
    assert num_prefilled(Workload.of(config, 3).prompt_lengths, 2048) == 3


# The table


def test_the_fraction_is_the_floor_over_the_time() -> None:
    assert fraction_of_floor({"batch": 8, "whole_s": 0.5}, {"8": 0.2}) == pytest.approx(0.4)
    assert fraction_of_floor({"batch": 8, "whole_s": 0.5}, {"1": 0.2}) is None


def test_the_table_shows_figures_and_reasons() -> None:
    sizes = [
        {"batch": 1, "whole_s": 0.25, "images_per_s": 4.0, "tokens_per_s": 300.0},
        {"batch": 8, "whole_s": 0.5, "images_per_s": 16.0, "tokens_per_s": 2000.0},
    ]
    parity = {"encoder": {"worst_cosine": 0.99999}, "step": {"worst_cosine": 0.9987}}
    ours = Outcome("tensorrt-fp16", "timeout", "stopped after 9 s", 9.0, 3_000_000_000)
    ours.data.update(sizes=sizes, parity=parity, sizes_left_out=[32])
    ours.data.update(sizes_beyond_engines=[64], sizes_failed={"16": "no room"})
    results = {
        "ceilings": Outcome(
            "ceilings",
            "ok",
            data={"bytes_per_s": 2e12, "operations_per_s": {"float16": 5e14}},
        ).to_dict(),
        "configs": {
            "tiny": {
                "floor_s": {"1": 0.1, "8": 0.2},
                "parts": [Outcome("export x", "failed", "SM 90 is refused").to_dict()],
                "contestants": [
                    ours.to_dict() | {"sizes_out_of_memory": [128]},
                    Outcome("vllm", "skipped", "vllm is not installed").to_dict(),
                ],
            }
        },
    }
    table = to_markdown(results)
    assert "copy 2000 GB/s, float16 matrix products 500 TFLOP/s" in table
    rows = [line for line in table.splitlines() if line.startswith("| tensorrt")]
    assert rows == [
        "| tensorrt-fp16 | 1 | 4 | 250.0 | 300 | 40.0 % |  |  |",
        "| tensorrt-fp16 | 8 | 16 | – | 2000 | 40.0 % | 3.0 | 0.998700 |",
    ]
    assert "- export x: failed: SM 90 is refused" in table
    assert (
        "- tensorrt-fp16: timeout: stopped after 9 s; out of memory at batch 128; "
        "no time for batch 32; engines are not compiled for batch 64; batch 16 failed: no room"
    ) in table
    assert "- vllm: skipped: vllm is not installed" in table
    results["ceilings"] = Outcome("ceilings", "skipped", "torch is not installed").to_dict()
    assert "Ceilings not measured (skipped: torch is not installed)." in to_markdown(results)


# All of it


@pytest.mark.slow
def test_the_whole_suite_on_a_cpu(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu_suite.py", "--device", "cpu", "--out", str(out)]
    subprocess.run([*command, "--batch-size", "2"], cwd=root, check=True, capture_output=True)
    results = json.loads(out.read_text())
    tiny = results["configs"]["tiny"]
    contestants = by_name(tiny["contestants"])
    ours = ("torch-float32", "torch-plain-float32", "cpu-int8", "end-to-end")
    reduced = ("torch-fp8-all-int8-cache", "torch-fp8", "torch-int8-cache")
    for name in (*ours, *reduced, "public-pipeline", "hf-static-compile"):
        assert contestants[name]["status"] == "ok", contestants[name]
        assert contestants[name]["data"]["sizes"][0]["images_per_s"] > 0
    assert contestants["cpu-fp32"]["data"]["parity"]["step"]["worst_cosine"] > 0.9999
    for name in reduced:
        assert 0.99 < contestants[name]["data"]["parity"]["step"]["mean_cosine"] < 0.9999999
    (whole,) = contestants["end-to-end"]["data"]["sizes"]
    assert whole["tokens_per_caption"] > 1
    # No order between them: two short measurements, and other work shares the machine.
    assert whole["read_per_s"] > 0
    assert whole["images_per_s"] > 0
    assert contestants["torch-float32"]["data"]["sizes"][0]["as_alone"] == 1
    assert 0.9 < contestants["cpu-int8"]["data"]["parity"]["step"]["mean_cosine"] < 0.999999
    assert contestants["hf-continuous-batching"]["status"] == "skipped"
    assert tiny["floor_s"]["2"] > 0
    assert contestants["torch-float32"]["data"]["sizes"][0]["whole_s"] > 0
    assert "| torch-float32 | 2 |" in out.with_suffix(".md").read_text()
