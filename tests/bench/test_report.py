"""A whole run, against a stand-in runtime that records what it is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from typer.testing import CliRunner

from altogether_rt.bench import report
from altogether_rt.bench.ceilings import Ceilings
from altogether_rt.bench.report import COLUMNS, BenchSettings, describe_machine, run_bench
from altogether_rt.bench.stages import STAGES
from altogether_rt.captioner import Captioner
from altogether_rt.cli.main import app
from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    EncoderConfig,
    GenerationConfig,
    MapperConfig,
    PromptConfig,
)
from altogether_rt.machine.report import Processor
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Array, Runtime, StepBatch, StepResult

pytestmark = pytest.mark.lean

VISION = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16}
CONFIG = CaptionerConfig(
    "tiny",
    EncoderConfig("tiny", 4, image_size=32, model={"vision_cfg": VISION}),
    MapperConfig(prefix_length=2, clip_length=2, layers=1, heads=2),
    DecoderConfig(
        vocab_size=10, layers=1, width=8, heads=2, ffn_width=16, max_positions=32, eos_id=2,
        pad_id=1,
    ),
    PromptConfig(max_alt_tokens=6),
    GenerationConfig(max_new_tokens=8),
)  # fmt: skip
MACHINE = Ceilings(threads=1, int8_per_s=1e12, fp32_per_s=1e11, bytes_per_s=1e10)


@dataclass
class StandIn:
    """A runtime whose every caption is `max_new_tokens` long, and which checks its calls."""

    num_slots: int
    capacity: int = CONFIG.capacity
    token_width: int = 8
    max_chunk: int = 64
    prefill_tokens: int = 2048
    device: str = "cpu"
    steps: list[StepBatch] = field(default_factory=list)
    closed: bool = False

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert pixels.shape[1:] == (32, 32, 3)
        assert pixels.std() > 0, "a blank image"
        return np.ones((len(pixels), 4), np.float32)

    def map(self, embeddings: Array) -> NDArray[np.float32]:
        return np.ones((len(embeddings), 2, 8), np.float32)

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        assert not want_logits
        assert len(batch.query_lengths) <= self.num_slots
        assert int((batch.past_lengths + batch.query_lengths).max()) <= self.capacity
        assert batch.visual_index.min(initial=0) >= 0
        assert batch.visual_index.max(initial=0) < len(batch.token_ids)
        self.steps.append(batch)
        return StepResult(np.full(len(batch.logit_index), 5, np.int64))

    def move_slot(self, src: int, dst: int, length: int) -> None: ...

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """What `run_bench` opens, whatever bundle it is asked for."""
    vocabulary = {"<unk>": 0, "<pad>": 1, "</s>": 2, "a": 3, "the": 4, "boat": 5}
    raw = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = Whitespace()  # type: ignore[assignment, unused-ignore]
    tokenizer = PromptTokenizer(raw, CONFIG.prompt, CONFIG.decoder.pad_id)
    runtime = StandIn(num_slots=3)
    parts = CaptionerParts(CONFIG, cast("Runtime", runtime), tokenizer, "0123456789ab", None)
    resolved = SimpleNamespace(
        bundle_id=parts.bundle_id, target="cpu-int8", weights="int8", cache="float32", bundle=None
    )

    def open_stand_in(
        captioner: object, *, num_slots: int, speculation: Any, **_: Any
    ) -> Captioner:
        assert captioner is resolved
        assert num_slots == 3
        return Captioner(parts, speculation)

    def resolve(
        path: object, device: str, dtype: str, kv_cache: str, allow_download: bool
    ) -> SimpleNamespace:
        if dtype != "auto":
            resolved.weights = dtype
            resolved.cache = "float16" if dtype.startswith("float8") else dtype
        if kv_cache != "auto":
            resolved.cache = kv_cache
        return resolved

    monkeypatch.setattr(report, "resolve_captioner", resolve)
    monkeypatch.setattr(report, "open_captioner", open_stand_in)
    monkeypatch.setattr(report, "measure_ceilings", lambda threads, quick: MACHINE)
    return runtime


def test_run_measures_every_stage_at_every_size(runtime: StandIn) -> None:
    done: list[str] = []
    result = run_bench("tiny", BenchSettings((1, 3), new_tokens=5, quick=True), done.append)
    assert [(s.stage, s.batch) for s in result.stages] == [(s, b) for s in STAGES for b in (1, 3)]
    assert len(done) == 2 + len(STAGES) * 2
    assert runtime.closed
    data = result.to_dict()
    assert json.loads(json.dumps(data)) == data
    peaks = list(result.memory_bytes.values())
    assert peaks == sorted(peaks)
    for stage_result in result.stages:  # before rounding, which makes nothing of a small fraction
        fraction = result.fraction(stage_result)
        assert fraction is not None
        assert 0 < fraction < 1  # Python is far from 1e12 operations a second
    for stage in data["stages"]:
        latency = stage["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert stage["rows_per_s"] == pytest.approx(1000 * stage["batch"] / latency["p50"], rel=0.1)
        assert stage["limit"] in ("compute", "memory")
        assert ("decoder_s" in stage) == (stage["stage"] == "whole")
        if stage["stage"] == "whole":
            parts = [stage[name] for name in ("decode_wait_s", "encode_s", "map_s", "decoder_s")]
            assert min(parts) >= 0
            assert stage["decoder_s"] > 0
            assert 1000 * sum(parts) <= 1.5 * latency["p99"]  # of the mean run, warm-up included


def test_fraction_is_floor_over_median(runtime: StandIn) -> None:
    result = run_bench("tiny", BenchSettings((2, 3), quick=True))
    for stage in result.stages:
        assert stage.costs is not None
        floor_s = sum(cost.floor_s(MACHINE, int8=True) for cost in stage.costs)
        assert result.fraction(stage) == pytest.approx(floor_s / stage.timing.p50_s)
    whole = result.stages[-1]
    assert whole.costs is not None
    # Nobody says EOS: encoder, mapper, prefill, then a step for each token but the first.
    assert len(whole.costs) == 3 + 8 - 1
    assert whole.tokens == 3 * 8


def test_decode_is_measured_behind_prompt_and_half_a_caption(runtime: StandIn) -> None:
    run_bench("tiny", BenchSettings((3,), new_tokens=4, quick=True))
    prefill = next(s for s in runtime.steps if len(s.visual_tokens))
    lengths = prefill.query_lengths
    assert (
        np.diff(np.flatnonzero(np.isin(np.arange(sum(lengths)), prefill.visual_index))) >= 1
    ).all()
    assert (prefill.logit_index == np.cumsum(lengths) - 1).all()
    decode = next(s for s in runtime.steps if (s.query_lengths == 1).all())
    assert (decode.past_lengths == lengths + 2).all()


def test_command_prints_a_table_and_then_one_json_line(runtime: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    arguments = ["bench", "--batch-sizes", "3,1", "--quick", "--out", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.rstrip().splitlines()
    data = json.loads(lines[-1])
    assert json.loads(file.read_text()) == data
    assert data["settings"]["batch_sizes"] == [1, 3]
    table = "\n".join(lines[:-1])
    assert all(word in table for word in (*COLUMNS, *STAGES, "fraction = floor / median time"))


@pytest.mark.parametrize("speculation", ["off", "on"])
def test_speculation_can_be_chosen(runtime: StandIn, speculation: str) -> None:
    """Every token of the stand-in is the same: any draft token is accepted."""
    arguments = ["bench", "--batch-sizes", "3", "--quick", "--quiet", "--speculation", speculation]
    data = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert data["settings"]["speculation"] == speculation
    (whole,) = (stage for stage in data["stages"] if stage["stage"] == "whole")
    assert (whole["tokens_per_decode"] > 1) == (speculation == "on")


def test_a_checkpoints_type_can_be_chosen(runtime: StandIn) -> None:
    """A decode step of fp8 reads weights in half precision, which its floor is counted with."""

    def read(dtype: str, kv_cache: str = "auto") -> int:
        arguments = ["bench", "--batch-sizes", "3", "--quick", "--quiet", "--dtype", dtype]
        done = CliRunner().invoke(app, [*arguments, "--kv-cache", kv_cache])
        data = json.loads(done.stdout)
        assert (data["settings"]["dtype"], data["settings"]["kv_cache"]) == (dtype, kv_cache)
        (decode,) = (stage for stage in data["stages"] if stage["stage"] == "decode")
        found: int = decode["bytes"]
        return found

    half = read("float16")
    assert read("float32") == 2 * half == 2 * read("bfloat16") == 2 * read("float8") > 0
    # The layers, and the cache, by a byte a number less; the head stays in half precision.
    kept = half - read("float16", "int8")
    assert kept == half - read("float16", "float8") > 0
    layers = half - read("float8-all")
    assert layers > 0 and layers + kept == half - read("float8-all", "int8") < half / 2


def test_quiet_command_prints_the_json_line_only(runtime: StandIn) -> None:
    result = CliRunner().invoke(app, ["bench", "--batch-sizes", "3", "--quick", "--quiet"])
    assert result.stderr == ""
    assert json.loads(result.stdout)["bundle_id"] == "0123456789ab"


@pytest.mark.parametrize("sizes", ["", "0", "1,x", "-3", "99999"])
def test_batch_sizes_that_are_none_are_usage_errors(sizes: str) -> None:
    result = CliRunner().invoke(app, ["bench", "--batch-sizes", sizes])
    assert result.exit_code == 2
    assert "--batch-sizes" in result.stderr


def test_a_bundle_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "--bundle", str(tmp_path / "absent"), "--quiet"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "absent" in result.stderr
    assert result.stderr.count("\n") == 1


def test_unwritable_json_file_is_one_sentence(runtime: StandIn, tmp_path: Path) -> None:
    arguments = ["bench", "--batch-sizes", "3", "--quick", "--quiet", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "is a folder: name a file" in result.stderr


def test_a_machine_is_named_with_what_makes_it_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual machines are all called the same."""
    monkeypatch.setattr(
        report, "read_processor", lambda cores: Processor("Virtual", cores, ("AVX2", "AVX512"))
    )
    machine = describe_machine()
    assert (machine["processor"], machine["features"]) == ("Virtual", ["AVX2", "AVX512"])
