"""Alt-texts, rounds and facts of scenes agree with each other."""

from __future__ import annotations

import pytest

from altogether_rt.scenes.names import split_of
from altogether_rt.scenes.text import Sample, make_sample
from altogether_rt.scenes.world import COLOURS, KINDS

SAMPLES = [make_sample(3, index, "test") for index in range(2000)]


def test_same_seed_and_index_make_the_same_sample() -> None:
    assert make_sample(3, 17, "test") == SAMPLES[17]
    assert make_sample(4, 17, "test") != SAMPLES[17]


def test_pages_of_one_picture_differ_in_text_only() -> None:
    first, second = make_sample(3, 5), make_sample(3, 5, page=1)
    assert first.scene == second.scene
    assert first.alts != second.alts


def test_world_is_rich_enough() -> None:
    assert len(KINDS) >= 20 and len(COLOURS) >= 10
    seen = {group.kind for sample in SAMPLES for group in sample.scene.groups}
    assert seen == set(KINDS)
    assert {sample.scene.relation for sample in SAMPLES} == {
        "", "to the left of", "to the right of", "above", "below",
    }  # fmt: skip


def test_quarter_of_the_alts_is_wrong_and_some_are_empty() -> None:
    told = [sample for sample in SAMPLES if any(sample.alts)]
    assert sum(bool(sample.wrong) for sample in told) >= len(told) / 4
    assert 0.03 < 1 - len(told) / len(SAMPLES) < 0.2


def test_several_alts_occur() -> None:
    assert any(len(sample.alts) > 1 for sample in SAMPLES)


def test_rounds_start_with_the_alt_and_end_with_the_caption() -> None:
    for sample in SAMPLES:
        assert sample.rounds[0] == " ".join(sample.alts)
        assert sample.rounds[-1] == sample.caption
        assert len(sample.rounds) >= 2


def test_caption_keeps_names_and_corrects_what_is_wrong() -> None:
    for sample in SAMPLES:
        assert all(name in sample.caption for name in sample.names)
        assert all(name in sample.rounds[0] for name in sample.names)
        for wrong in sample.wrong:
            assert wrong.said != wrong.true


@pytest.mark.parametrize("split", ["train", "test"])
def test_names_of_the_splits_are_disjoint(split: str) -> None:
    samples: list[Sample] = [make_sample(9, i, split) for i in range(500)]  # type: ignore[arg-type]
    generic = {"Port", "Lake", "Mount", "Bay", "Hill", "Park"}
    stems = {word for s in samples for name in s.names for word in name.split()} - generic
    assert len(stems) > 200
    assert {split_of(stem) for stem in stems} == {split}
