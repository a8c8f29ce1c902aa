"""Which text a sample gets."""

from __future__ import annotations

from itertools import pairwise

import pytest

from altogether_rt.errors import ConfigError
from altogether_rt.mixing.draw import MixDraw, MixedText, mix_text

pytestmark = pytest.mark.lean

NUM = 100_000


@pytest.mark.parametrize("ratio", [0.02, 0.15, 0.5, 0.97])
@pytest.mark.parametrize("seed", [0, 1])
def test_observed_ratio_is_within_three_sigma(ratio: float, seed: int) -> None:
    draw = MixDraw(ratio, seed)
    found = sum(draw.wants_caption(f"{number:06d}.jpg") for number in range(NUM))
    sigma = (NUM * ratio * (1 - ratio)) ** 0.5
    assert abs(found - NUM * ratio) < 3 * sigma


def test_ratios_nought_and_one_are_exact() -> None:
    keys = [str(number) for number in range(10_000)]
    assert not any(MixDraw(0.0).wants_caption(key) for key in keys)
    assert all(MixDraw(1.0).wants_caption(key) for key in keys)


@pytest.mark.parametrize(
    ("byte", "wanted"), [(b"\x00", {0.0: False, 1e-9: True}), (b"\xff", {1.0: True})]
)
def test_the_first_and_the_last_draw_keep_to_the_ends(
    byte: bytes, wanted: dict[float, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key in 2**53 draws them. The last is 1 - 2**-53, which a float of more bits makes 1."""
    import hashlib

    class Digest:
        def digest(self) -> bytes:
            return byte * 8

    monkeypatch.setattr(hashlib, "blake2b", lambda *_, **__: Digest())
    assert {ratio: MixDraw(ratio).wants_caption("a") for ratio in wanted} == wanted
    assert MixDraw(0.5).alt(["one", "two"], "a") == ("one" if byte == b"\x00" else "two")


def test_choices_are_nested() -> None:
    keys = [str(number) for number in range(5000)]
    ratios = (0.0, 0.05, 0.15, 0.3, 0.31, 0.75, 1.0)
    drawn = [{k for k in keys if MixDraw(ratio, 3).wants_caption(k, epoch=2)} for ratio in ratios]
    for lower, higher in pairwise(drawn):
        assert lower < higher


def test_seeds_epochs_and_keys_draw_apart() -> None:
    """Two draws at ratio one half agree on half of the keys, within five sigma."""
    keys = [str(number) for number in range(10_000)]

    def chosen(seed: int, epoch: int) -> list[bool]:
        return [MixDraw(0.5, seed).wants_caption(key, epoch) for key in keys]

    first = chosen(0, 0)
    # (0, 11) and (1, 1): a seed and an epoch that read alike when put together.
    for other in (chosen(1, 0), chosen(0, 1), chosen(0, 11), chosen(1, 1), chosen(-1, 0)):
        equal = sum(a == b for a, b in zip(first, other, strict=True))
        assert abs(equal - 5000) < 250


def test_draws_are_those_of_any_machine_and_version() -> None:
    """BLAKE2b of the text below, its first 53 bits as a fraction: worked out with b2sum's digest.

    printf 'caption\\0000\\0000\\000a.jpg' | b2sum -l 64
    """
    import hashlib

    digest = hashlib.blake2b(b"caption\x000\x000\x00a.jpg", digest_size=8).hexdigest()
    share = int(digest, 16) / 2**64
    for draw in (MixDraw(share + 1e-9), MixDraw(share + 1e-9, 0)):
        assert draw.wants_caption("a.jpg") and draw.wants_caption("a.jpg", 0)
    assert not MixDraw(share - 1e-9, 0).wants_caption("a.jpg")
    digest = hashlib.blake2b(b"alt\x000\x000\x00a.jpg", digest_size=8).hexdigest()
    texts = [str(number) for number in range(1000)]
    assert MixDraw(0.5).alt(texts, "a.jpg") == texts[int(digest, 16) * 1000 >> 64]


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan")])
def test_ratio_outside_nought_and_one_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        MixDraw(ratio)


def test_the_text_is_the_one_that_was_drawn() -> None:
    draw, alts = MixDraw(0.5, 3), ["one", "two", "three"]
    for key, epoch in ((f"{number}.jpg", number % 3) for number in range(60)):
        mixed = mix_text(draw, key, alts, "a caption", epoch)
        if draw.wants_caption(key, epoch):
            assert mixed == MixedText("a caption", "caption")
        else:
            assert mixed == MixedText(draw.alt(alts, key, epoch), "alt")
        assert mix_text(draw, key, alts, "a caption") == mix_text(draw, key, alts, "a caption", 0)


def test_a_missing_caption_is_the_alt_text_and_says_so() -> None:
    for caption in (None, ""):
        mixed = mix_text(MixDraw(1.0), "a", ["the alt"], caption)
        assert mixed is not None
        assert (mixed.text, mixed.source, mixed.missing_caption) == ("the alt", "alt", True)
    mixed = mix_text(MixDraw(0.0), "a", ["the alt"], None)
    assert mixed is not None and not mixed.missing_caption


def test_a_missing_alt_text_is_not_the_caption() -> None:
    assert mix_text(MixDraw(0.0), "a", [], "a caption") is None
    mixed = mix_text(MixDraw(1.0), "a", [], "a caption")
    assert mixed is not None and mixed.text == "a caption"


def test_several_alt_texts_take_turns_whatever_the_ratio() -> None:
    alts = ["one", "two", "three"]
    found = [MixDraw(0.0).alt(alts, "a", epoch) for epoch in range(3000)]
    assert found == [MixDraw(0.9).alt(alts, "a", epoch) for epoch in range(3000)]
    for alt in alts:
        assert abs(found.count(alt) - 1000) < 5 * (3000 * 2 / 9) ** 0.5
    assert {MixDraw(0.0).alt(["one", "two"], "a", epoch) for epoch in range(50)} == {"one", "two"}


def test_names_that_are_no_utf8_are_drawn_too() -> None:
    assert MixDraw(1.0).wants_caption("caf\udce9.jpg")
