"""What a dataset takes: worked out by hand beside each figure."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from altogether_rt.bench.plan import RunPlan, decoding_s, parse_count, plan_run
from altogether_rt.bench.report import BenchReport
from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError
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
    return cast(BenchReport, cast(Any, SimpleNamespace(device=device, stages=stages)))


def test_the_best_batch_size_counts_and_cores_decode() -> None:
    on_cpu = plan_run(report_of("cpu", 5, 10), 100, decode_s=0.02, cores=4)
    assert on_cpu.seconds_per_image == pytest.approx(0.1 + 0.005)
    assert (on_cpu.units, on_cpu.unit, on_cpu.tokens_per_caption) == (4, "cores", 20)
    on_gpu = plan_run(report_of("cuda", 1000), 100, decode_s=0.02, cores=4)
    assert on_gpu.seconds_per_image == pytest.approx(0.005)  # decoding is what it waits for
    assert plan_run(report_of("cuda", 50), 9, decode_s=0.02, cores=4).seconds_per_image == 0.02
    assert (on_gpu.units, on_gpu.unit) == (1, "GPUs")


def test_decoding_is_measured() -> None:
    assert 0 < decoding_s(quick=True) < 1


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


def test_a_price_without_a_plan() -> None:
    done = CliRunner().invoke(app, ["bench", "--price-per-hour", "2"])
    assert done.exit_code == 2
    assert "it goes with --plan" in done.stderr
    done = CliRunner().invoke(app, ["bench", "--plan", "many"])
    assert done.exit_code == 1
    assert "--plan is 'many'" in done.stderr
