"""What a dataset takes: worked out by hand beside each figure."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from altogether_rt.bench.plan import RunPlan, parse_count, plan_run
from altogether_rt.bench.reading import reading_s
from altogether_rt.bench.report import BenchReport, BenchSettings
from altogether_rt.cli.main import app
from altogether_rt.config import EncoderConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.preprocess.pixels import Preprocessor
from tests.bench.test_report import StandIn, runtime  # noqa: F401

pytestmark = pytest.mark.lean


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("400M", 400_000_000),
        ("1.5B", 1_500_000_000),
        ("250k", 250_000),
        ("12", 12),
        ("250,000", 250_000),
        ("1 m", 1_000_000),
        (" 3_000 ", 3000),
    ],
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "many", "-5", "1e6", "4 GB", "0.1"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(AltogetherError, match=r"give a number of images such as 400M\.$"):
        parse_count(text)


def test_hours_machines_cost_and_bytes() -> None:
    plan = RunPlan(7_200_000, 0.1, 4, "cores", 40.0, 10_000, price_per_hour=0.5)
    assert plan.machine_hours == pytest.approx(200)  # 720,000 s
    assert plan.cost == pytest.approx(100)
    assert plan.num_shards == 720
    assert [plan.machines(days) for days in (1, 7, 30)] == [9, 2, 1]  # 200 / 24 = 8.33
    assert plan.row_bytes == pytest.approx(19 + 0.35 * (60 + 4.5 * 40))  # 103
    assert plan.output_bytes == pytest.approx(7_200_000 * 103)
    assert plan.rows() == [
        ["8.3 days", "1", "4", "100.00"],
        ["1 day", "9", "36", "100.00"],
        ["7 days", "2", "8", "100.00"],
    ]
    data = plan.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["cores"] == 4
    assert len(data["assumes"]) == 3


def test_a_shard_is_not_divided() -> None:
    plan = RunPlan(100, 36_000, 1, "GPUs", 10.0, 40)
    assert plan.num_shards == 3
    assert plan.machines(1) == 3  # 1,000 hours would want 42
    assert plan.cost is None
    assert plan.rows()[0] == ["41.7 days", "1", "1", "–"]


def report_of(device: str, *rates: float) -> BenchReport:
    stages = [
        SimpleNamespace(stage="whole", batch=8, rows_per_s=rate, tokens=160) for rate in rates
    ]
    stages.append(SimpleNamespace(stage="encoder", batch=8, rows_per_s=1e9, tokens=0))
    return BenchReport(
        bundle="b",
        bundle_id="0",
        target="t",
        int8=False,
        settings=BenchSettings(),
        load_s=1.0,
        stages=cast(Any, tuple(stages)),
        memory_bytes={},
        ceilings=None,
        read_s=0.02,
        cores=4,
        device=device,
    )


def test_the_best_batch_size_counts_and_cores_read() -> None:
    on_cpu = plan_run(report_of("cpu", 5, 10), 100)
    assert on_cpu.seconds_per_image == pytest.approx(0.1 + 0.005)
    assert (on_cpu.units, on_cpu.unit, on_cpu.tokens_per_caption) == (4, "cores", 20)
    on_gpu = plan_run(report_of("cuda", 1000), 100)
    assert on_gpu.seconds_per_image == pytest.approx(0.005)  # reading is what it waits for
    assert plan_run(report_of("cuda", 50), 9).seconds_per_image == 0.02
    assert (on_gpu.units, on_gpu.unit) == (1, "GPUs")


def test_reading_that_limits_is_named() -> None:
    """Four cores read 200 images/s at 20 ms each."""
    slow, quick, on_cpu = (
        report_of(device, rate).reading
        for device, rate in (("cuda:0", 455), ("cuda:0", 150), ("cpu", 10))
    )
    read = "reading: 20.0 ms of a core for a JPEG of 800 × 600 pixels, 200 images/s on 4 cores"
    assert slow.sentence() == (
        f"{read}; that is what limits, as 455 images/s are captioned: give it more cores, smaller "
        "files, or --fast-jpeg for large ones"
    )
    assert quick.sentence() == f"{read}; the GPU does not wait for it"
    # 5 ms of reading beside 100 ms of captioning.
    assert on_cpu.sentence() == f"{read}; 4.8 % of the time, beside captioning"
    assert [one.limits for one in (slow, quick, on_cpu)] == [True, False, False]
    assert slow.to_dict() == {
        "core_s": 0.02,
        "images_per_s": 200.0,
        "cores": 4,
        "jpeg": [800, 600],
        "limits": True,
    }


def test_reading_is_measured() -> None:
    preprocessor = Preprocessor(EncoderConfig("any", embed_dim=4, image_size=32))
    assert 0 < reading_s(preprocessor, quick=True) < 2


def test_the_command(runtime: StandIn) -> None:  # noqa: F811
    arguments = ["bench", "--batch-sizes", "3", "--quick", "--plan", "1M", "--price-per-hour", "2"]
    done = CliRunner().invoke(app, [*arguments, "--threads", "1", "--shard-size", "1000"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.rstrip().splitlines()
    plan = json.loads(lines[-1])["plan"]
    assert (plan["images"], plan["shards"], plan["cores"]) == (1_000_000, 1000, 1)
    assert plan["cost"] == pytest.approx(2 * plan["machine_hours"], abs=0.01)
    text = "\n".join(lines[:-1])
    assert "1,000,000 images" in text and "in 1,000 shards" in text
    assert all(sentence in text for sentence in plan["assumes"])
    assert "reading: " in text and "beside captioning" in text
    assert json.loads(lines[-1])["reading"]["cores"] == 1


def test_a_price_without_a_plan() -> None:
    done = CliRunner().invoke(app, ["bench", "--price-per-hour", "2"])
    assert done.exit_code == 2
    assert "it goes with --plan" in done.stderr
    done = CliRunner().invoke(app, ["bench", "--plan", "many"])
    assert done.exit_code == 1
    assert "--plan is 'many'" in done.stderr
