"""How many draft tokens are verified, by acceptance rates and by the measured cost of steps."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.speculation.drafter import Draft
from altogether_rt.speculation.planner import Acceptance, DraftPlanner
from altogether_rt.speculation.step_cost import StepCost

pytestmark = pytest.mark.lean

LIKELY = [0.95**n for n in range(1, 16)]
UNLIKELY = [0.05**n for n in range(1, 16)]


def _planner(constant: float, row: float, token: float) -> DraftPlanner:
    """A planner that has measured such steps."""
    planner = DraftPlanner()
    for step in range(200):
        rows, drafted = 1 + step % 16, step % 7
        tokens = rows + drafted
        planner.cost.record(rows, tokens, constant + row * rows + token * tokens)
    return planner


def test_cost_is_recovered_from_measurements() -> None:
    cost = _planner(0.01, 0.0005, 0.001).cost
    assert cost.step_s(1, 1) == pytest.approx(0.0115, rel=0.1)
    assert cost.step_s(8, 24) == pytest.approx(0.038, rel=0.1)
    assert cost.token_s == pytest.approx(0.001, rel=0.15)


def test_plain_decoding_alone_keeps_the_default_proportions() -> None:
    cost, default = StepCost(), StepCost()
    for _ in range(50):
        cost.record(1, 1, 0.002)
    assert cost.step_s(1, 1) == pytest.approx(0.002, rel=0.01)
    ratio = default.token_s / default.step_s(1, 1)
    assert cost.token_s / cost.step_s(1, 1) == pytest.approx(ratio, rel=0.2)


def test_an_interrupted_step_counts_for_little() -> None:
    cost = StepCost()
    for _ in range(100):
        cost.record(4, 4, 0.002)
    cost.record(4, 4, 1.0)
    assert cost.step_s(4, 4) < 0.003


def test_a_clock_that_stands_still_teaches_nothing() -> None:
    cost = StepCost()
    cost.record(1, 1, 0.0)
    assert cost.step_s(3, 5) == StepCost().step_s(3, 5)


def test_a_row_learns_its_acceptance_and_passes_it_to_new_rows() -> None:
    shared = Acceptance()
    row, draft = shared.for_row(), Draft((5, 6, 7), (1, 2, 3))
    for _ in range(30):
        row.observe(draft, [5, 6, 9, 9])
    assert row.rate(1) > 0.9
    assert row.rate(2) > 0.9
    assert row.rate(3) < 0.1
    assert 0.8 < shared.for_row().rate(1) < 1
    assert shared.for_row().rate(3) < 0.2
    assert row.rate(4) == Acceptance().rate(4), "never seen"


def test_draft_tokens_after_a_wrong_one_are_not_judged() -> None:
    acceptance = Acceptance()
    acceptance.observe(Draft((5, 6), (1, 2)), [9, 6])
    assert acceptance.rate(1) < Acceptance().rate(1)
    assert acceptance.rate(2) == Acceptance().rate(2)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_each_row_gets_the_length_that_it_deserves(mode: str) -> None:
    planner = _planner(0.02, 0.001, 0.001)
    likely, unlikely, none = planner.draft_lengths(mode, [LIKELY, UNLIKELY, []])  # type: ignore[arg-type]
    assert likely > 5
    assert unlikely <= 1
    assert none == 0


def test_lengths_follow_the_cost_of_a_token() -> None:
    lengths = [
        _planner(0.02, 0.0, token).draft_lengths("auto", [LIKELY])[0] for token in (1e-4, 1e-2)
    ]
    assert lengths[0] > lengths[1]
    dear = _planner(1e-5, 0.0, 0.02)
    assert dear.draft_lengths("auto", [UNLIKELY]) == [0]


def test_lengths_give_the_best_rate() -> None:
    """Against every choice of lengths for two rows."""
    planner = _planner(0.01, 0.001, 0.003)
    gains = [[0.9, 0.7, 0.5, 0.3], [0.6, 0.3, 0.2, 0.1]]

    def rate(lengths: tuple[int, ...]) -> float:
        written = 2 + sum(sum(row[:n]) for row, n in zip(gains, lengths, strict=True))
        return written / planner.cost.step_s(2, 2 + sum(lengths))

    best = max(((a, b) for a in range(5) for b in range(5)), key=rate)
    assert rate(tuple(planner.draft_lengths("auto", gains))) == pytest.approx(rate(best))


def test_drafts_must_beat_steps_that_are_begun_ahead() -> None:
    """Half the time of a step that is waited for, while drafts promise 1.6 times its tokens."""
    gains = [[0.6]] * 8
    planner = _planner(0.02, 0.0, 0.0001)
    assert planner.draft_lengths("auto", gains) == [1] * 8
    for _ in range(60):
        planner.cost.record_ahead(8, 0.5 * planner.cost.step_s(8, 8))
    assert planner.cost.plain_s(8) == pytest.approx(0.5 * planner.cost.step_s(8, 8), rel=0.01)
    assert planner.draft_lengths("auto", gains) == [0] * 8
    for _ in range(200):  # steps that are waited for change nothing about those that are not
        planner.cost.record(8, 16, 0.0216)
    assert planner.draft_lengths("auto", gains) == [0] * 8
    assert planner.draft_lengths("auto", [LIKELY])[0] > 0, "a row alone begins no step ahead"
    assert planner.draft_lengths("on", gains) == [1] * 8


def test_steps_that_are_begun_ahead_count_once_others_are_known() -> None:
    cost = StepCost()
    cost.record_ahead(4, 0.001)
    assert cost.plain_s(4) == cost.step_s(4, 4)
    for _ in range(50):
        cost.record(4, 4, 0.002)
        cost.record_ahead(4, 1.0)  # delayed by something else
    assert cost.plain_s(4) == cost.step_s(4, 4)


def test_drafting_must_pay_too() -> None:
    planner, gains = _planner(0.001, 0.0, 0.0001), [[0.8, 0.6]] * 16
    planner.record_drafting(16, 0.0)
    assert any(planner.draft_lengths("auto", gains))
    for _ in range(100):
        planner.record_drafting(16, 16 * 0.0005)
    assert not any(planner.draft_lengths("auto", gains))
    assert any(planner.draft_lengths("on", gains))


def test_cost_of_a_token_as_a_fraction_of_a_step() -> None:
    planner = _planner(0.02, 0.0, 0.005)
    assert planner.token_cost("auto", 1) == pytest.approx(0.2, rel=0.25)
    assert planner.token_cost("auto", 16) == pytest.approx(0.8, rel=0.25)
    assert planner.token_cost("on", 16) == planner.token_cost("on", 1)


def test_auto_rests_where_drafts_do_not_pay_and_looks_again() -> None:
    planner = _planner(1e-6, 0.0, 0.01)
    drafted, asked = 0, 0
    for _ in range(400):
        if planner.wants_drafts("auto", 8):
            asked += 1
            drafted += any(planner.draft_lengths("auto", [[0.3]] * 8))
    assert 6 < asked < 25
    assert planner.wants_drafts("auto", 1), "a row alone always drafts"
    assert planner.wants_drafts("on", 8)
    assert not planner.wants_drafts("off", 1)


def test_auto_explores_what_it_never_does() -> None:
    """An estimate that keeps drafts away is put to the test now and then."""
    planner = DraftPlanner()
    planner.cost = _planner(0.02, 0.02, 0.02).cost
    gains = [[0.55]] * 8
    plans = [planner.draft_lengths("auto", gains) for _ in range(20)]
    assert any(any(plan) for plan in plans)
    assert sum(any(plan) for plan in plans) <= len(plans) / 4


def test_estimates_stay_probabilities() -> None:
    rng = np.random.default_rng(0)
    acceptance = Acceptance().for_row()
    for right in rng.random(500) < 0.5:
        acceptance.record(1, bool(right))
        assert 0 < acceptance.rate(1) < 1
