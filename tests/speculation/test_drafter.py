"""The drafter follows the alt-text and finds its way back after an edit."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.config import MAX_DRAFT_TOKENS
from altogether_rt.speculation.drafter import Draft, Drafter
from altogether_rt.speculation.evidence import NUM_KINDS, PRIOR_RATES
from altogether_rt.speculation.ngram_cache import NgramCache

pytestmark = pytest.mark.lean

ALT = list(range(100, 130))


def _rate(kind: int) -> float:
    """In the order of the priors, but near one: drafts are not cut short."""
    return 0.9 + 0.1 * PRIOR_RATES[kind]


def _propose(drafter: Drafter, written: list[int], limit: int = MAX_DRAFT_TOKENS) -> Draft:
    return drafter.propose(written, _rate, limit)


def test_the_caption_may_begin_like_the_alt_text() -> None:
    assert _propose(Drafter(ALT), [], 4).tokens == (100, 101, 102, 103)


def test_follows_the_alt_text_with_growing_evidence() -> None:
    drafter = Drafter(ALT)
    first = _propose(drafter, [100], 3)
    assert first.tokens == (101, 102, 103)
    assert first.kinds == (1, 2, 3)
    assert _propose(drafter, [100, 101, 102], 2).kinds == (3, 4)


def test_resynchronises_after_an_insertion() -> None:
    drafter = Drafter(ALT)
    written = [*ALT[:5], 7, 8]  # two tokens that the alt-text does not have
    # Nothing matches: what stood next in the alt-text is still what is expected.
    draft = _propose(drafter, written, 3)
    assert draft.tokens == (105, 106, 107)
    assert draft.kinds[0] == 0
    draft = _propose(drafter, [*written, 105], 3)
    assert draft.tokens == (106, 107, 108)
    assert draft.kinds[0] == 1


def test_resynchronises_after_a_deletion() -> None:
    drafter = Drafter(ALT)
    _propose(drafter, ALT[:5], 1)
    assert drafter.cursor == 5
    assert _propose(drafter, [*ALT[:5], 109], 3).tokens == (110, 111, 112)  # 105-108 are left out
    assert drafter.cursor == 10


def test_resynchronises_after_a_substitution() -> None:
    drafter = Drafter(ALT)
    assert _propose(drafter, [*ALT[:5], 7, 106], 2).tokens == (107, 108)


def test_one_matching_token_far_away_is_ignored_but_two_are_not() -> None:
    drafter = Drafter(ALT)
    assert _propose(drafter, [100, 125], 2).tokens == (101, 102)
    assert _propose(drafter, [100, 125, 126], 2).tokens == (127, 128)


def test_of_several_positions_the_one_nearest_to_the_cursor() -> None:
    alt = [5, 60, 6, 61, 5, 62, 6, 63, 5, 64, 6, 65]  # each "5" and "6" goes on differently
    drafter = Drafter(alt)
    assert _propose(drafter, [5], 1).tokens == (60,)
    assert _propose(drafter, [5, 60, 6, 61, 9, 5], 1).tokens == (62,)
    assert _propose(drafter, [5, 60, 6, 61, 9, 5, 62, 6], 1).tokens == (63,)


def test_of_two_positions_as_near_the_later_one() -> None:
    drafter = Drafter([7, 20, 21, 22, 7, 23, 24])
    _propose(drafter, [20, 21], 1)
    assert drafter.cursor == 3
    assert _propose(drafter, [20, 21, 7], 2).tokens == (23, 24)
    assert drafter.cursor == 5


def test_where_it_goes_on_all_that_matches_is_counted() -> None:
    """So many tokens before 8, which follow another one there than in the caption."""
    written = [1, 2, 3, 4, 5, 7]
    for matching in range(3, 6):
        alt = [1, 2, 3, 4, 5, 6, 50, 9, *written[-matching:], 8]
        draft = _propose(Drafter(alt), written, 1)
        assert (draft.tokens, draft.kinds) == ((8,), (matching,))
    # At the beginning of the alt-text there is nothing before the three.
    draft = _propose(Drafter([2, 3, 7, 8, 40, 2, 3, 5]), [5, 2, 3, 7], 1)
    assert (draft.tokens, draft.kinds) == ((8,), (3,))


def test_a_longer_match_beats_a_nearer_one() -> None:
    alt = [1, 2, 3, 50, 9, 3, 51]
    drafter = Drafter(alt)
    _propose(drafter, [1, 2, 3, 50, 9], 1)
    assert _propose(drafter, [1, 2, 3, 50, 9, 1, 2, 3], 1).tokens == (50,)


def test_the_caption_is_looked_up_too() -> None:
    written = [70, 71, 72, 73, 8, 70, 71, 72]
    draft = _propose(Drafter([]), written, 3)
    assert draft.tokens == (73, 8, 70)
    # The alt-text, with no matching token, gives way to three matching tokens of the caption.
    draft = _propose(Drafter([40, 41]), [70, 71, 72, 9, 70, 71, 72], 2)
    assert draft.tokens == (9, 70)


def test_without_evidence_the_draft_is_empty() -> None:
    assert _propose(Drafter([]), []) == Draft()
    assert _propose(Drafter([]), [70, 71, 72]) == Draft()
    assert _propose(Drafter(ALT), [128, 129]) == Draft()


def test_at_the_end_of_the_alt_text_nothing_is_left_of_it() -> None:
    assert _propose(Drafter(ALT), ALT[-4:-1]).tokens == (129,)


def test_other_captions_are_drafted_from_the_first_token_on() -> None:
    cache = NgramCache()
    for _ in range(4):
        Drafter([], cache).update([5, 6, 7, 8])
    assert _propose(Drafter([], cache), []).tokens == (5, 6, 7, 8)
    assert _propose(Drafter([], cache), [9, 6]).tokens == (7, 8)
    # The alt-text fills a gap in the cache.
    draft = _propose(Drafter([50, 51, 7], cache), [5, 50])
    assert draft.tokens[:3] == (51, 7, 8)


def test_the_most_frequent_follower_prevails() -> None:
    cache = NgramCache()
    for token in (1, 2, 1, 1, 3, 1):
        cache.learn([(9,)], token)
    ((token, _),) = cache.candidates([(8, 9), (9,)])
    assert token == 1
    assert cache.candidates([(8,)]) == []


def test_kinds_of_higher_confidence_have_higher_rates() -> None:
    kinds = []
    for times in (1, 4, 40):
        cache = NgramCache()
        for _ in range(times):
            cache.learn([(9,)], 1)
        kinds += [kind for _, kind in cache.candidates([(9,)])]
    assert kinds == sorted(set(kinds))
    assert [PRIOR_RATES[kind] for kind in kinds] == sorted(PRIOR_RATES[kind] for kind in kinds)


def test_what_was_seen_once_does_not_hide_what_is_well_known() -> None:
    cache = NgramCache()
    cache.learn([(8, 9), (9,)], 2)
    for _ in range(9):
        cache.learn([(7, 9), (9,)], 1)
    assert [token for token, _ in cache.candidates([(8, 9), (9,)])] == [2, 1]
    assert [token for token, _ in cache.candidates([(7, 9), (9,)])] == [1]


def test_the_image_decides_between_followers() -> None:
    cache = NgramCache()
    for token in (1, 1, 1, 1, 2, 2):
        cache.learn([(9,)], token)
    assert cache.candidates([(9,)])[0][0] == 1
    ((token, sure),) = cache.candidates([(9,)], weights={2: 20.0})
    assert token == 2
    ((_, unsure),) = cache.candidates([(9,)], weights={2: 2.5})
    assert sure > unsure
    drafter = Drafter([], cache, {2: 20.0})
    assert drafter.propose([9], lambda kind: PRIOR_RATES[kind], 1).tokens == (2,)


def test_followers_stay_few_and_their_counts_small() -> None:
    cache = NgramCache()
    for token in range(1000):
        cache.learn([(9,)], token)
        cache.learn([(9,)], 7)
    arrays = cache.to_arrays()
    assert len(arrays["followers"]) == arrays["num_followers"].sum() <= 33
    assert arrays["followers"][:, 1].max() <= 1001
    assert cache.candidates([(9,)])[0][0] == 7


def test_the_cache_comes_back_from_its_arrays() -> None:
    rng = np.random.default_rng(1)
    cache, copy = NgramCache(), NgramCache()
    for _ in range(200):
        Drafter([], cache).update(rng.integers(0, 5, 12).tolist())
    copy.load_arrays(**{n: a.astype(np.int64) for n, a in cache.to_arrays().items()})
    assert len(copy) > 100
    for ngram in [(1,), (1, 2), (3, 1, 4), (-1,), (-1, 2)]:
        assert copy.candidates([ngram]) == cache.candidates([ngram])


def test_the_cache_stays_small() -> None:
    cache = NgramCache(max_ngrams=100)
    for token in range(1000):
        cache.learn([(token, token + 1), (token + 1,)], token)
    assert len(cache) == 100
    assert cache.candidates([(1000,)])
    assert not cache.candidates([(1, 2), (2,)])


def test_a_draft_ends_where_it_is_hardly_reached() -> None:
    assert Drafter(ALT).propose([100], lambda kind: 0.3).tokens == (101, 102)
    assert Drafter(ALT).propose([100], lambda kind: 0.04).tokens == (101,), "one, to learn from"
    assert Drafter(ALT).propose([100], lambda kind: 0.7, 9, 0.3).tokens == (101, 102)


def test_gains_are_products_of_rates() -> None:
    draft = Drafter(ALT).propose([100], lambda kind: 0.5 + kind / 10, 3)
    assert draft.kinds == (1, 2, 3)
    assert draft.gains == pytest.approx((0.6, 0.6 * 0.7, 0.6 * 0.7 * 0.8))


def test_the_likeliest_candidate_is_taken() -> None:
    cache = NgramCache()
    Drafter([], cache).update([100, 7])
    drafter = Drafter(ALT, cache)
    assert drafter.propose([100], lambda kind: 0.9 if kind < 7 else 0.5, 1).tokens == (101,)
    assert drafter.propose([100], lambda kind: 0.1 if kind < 7 else 0.5, 1).tokens == (7,)


def test_drafts_are_a_function_of_what_is_written() -> None:
    """However often it was asked before, and within its bounds."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        alt = rng.integers(0, 12, rng.integers(0, 30)).tolist()
        written: list[int] = []
        asked_often = Drafter(alt)
        for token in rng.integers(0, 12, 30).tolist():
            written.append(token)
            draft = _propose(asked_often, written)
            assert draft == _propose(Drafter(alt), written)
            assert len(draft.tokens) == len(draft.kinds) <= MAX_DRAFT_TOKENS
            assert all(0 <= kind < NUM_KINDS for kind in draft.kinds)
            assert _propose(asked_often, written, 2).tokens == draft.tokens[:2]


def test_a_word_of_the_alt_text_fits_where_it_has_followed_before() -> None:
    """After 'large orange' comes 'hat', as in another caption: the alt-text has one elsewhere."""
    the, hat, large, orange, boat = 10, 11, 12, 13, 14
    cache = NgramCache()
    for _ in range(3):
        Drafter([], cache).update(
            [large, orange, hat, the, large, orange, boat, the, orange, boat, the]
        )
    alt = [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, hat]
    draft = Drafter(alt, cache).propose([the, large, orange], lambda kind: PRIOR_RATES[kind], 1)
    assert draft.tokens == (hat,)
    without = Drafter(alt[:-1], cache).propose(
        [the, large, orange], lambda kind: PRIOR_RATES[kind], 1
    )
    assert without.tokens == (boat,)
    # Once it is written, it is not expected again.
    written = [hat, the, large, orange]
    again = Drafter(alt, cache).propose(written, lambda kind: PRIOR_RATES[kind], 1)
    assert again.tokens == (boat,)
