"""What a step sees is a function of the seed and its number."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.scenes.dataset import write_scenes
from altogether_rt.train.data import (
    Example,
    FolderDataset,
    ScenesDataset,
    example_order,
    finetune_texts,
    pretrain_texts,
    split_held_out,
)


def fixed(tmp_path: Path, *alts: str, caption: str = "last round") -> FolderDataset:
    """One image, always with the same texts."""
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"file_name": "a.png", "alts": alts, "caption": caption}))
    return FolderDataset(path)


class _Scene(ScenesDataset):
    """One scene, whose caption without an alt-text is known."""

    def example(self, index: int, epoch: int) -> Example:
        return Example(("Marigold",), "last round", "a boat")


def test_order_visits_every_example_once_an_epoch() -> None:
    walk = example_order(3, 10, 0, 30)
    for epoch in range(3):
        part = walk[10 * epoch : 10 * epoch + 10]
        assert {e for e, _ in part} == {epoch} and {i for _, i in part} == set(range(10))
    assert [i for _, i in walk[:10]] != [i for _, i in walk[10:20]]


def test_order_of_a_part_is_the_part_of_the_order() -> None:
    assert example_order(3, 10, 7, 15) == example_order(3, 10, 0, 22)[7:]


def test_pretraining_target_is_the_longest_alt_and_condition_another(tmp_path: Path) -> None:
    dataset = fixed(tmp_path, "zoo", "the longest of them", "middle one")
    conditions: Counter[tuple[str, ...]] = Counter()
    for seed in range(200):
        condition, target = pretrain_texts(dataset, 0, 0, random.Random(seed), 0.5)
        assert target == "the longest of them"
        conditions[tuple(condition)] += 1
    assert set(conditions) == {(), ("zoo",), ("middle one",)}
    assert 70 < conditions[()] < 130
    for seed in range(20):
        assert pretrain_texts(dataset, 0, 0, random.Random(seed), 0.0)[0] != ()
        assert pretrain_texts(dataset, 0, 0, random.Random(seed), 1.0)[0] == ()


def test_pretraining_on_scenes_takes_the_alt_texts_of_two_epochs() -> None:
    class Pages(ScenesDataset):
        def example(self, index: int, epoch: int) -> Example:
            return Example(("x" * (epoch + 1), " " * 9), "")

    for epoch in (0, 4):
        condition, target = pretrain_texts(Pages(1, 1), 0, epoch, random.Random(1), 0.0)
        assert (len(condition[0]), len(target)) == (epoch + 1, epoch + 2)


def test_single_alt_is_told_without_condition(tmp_path: Path) -> None:
    assert pretrain_texts(fixed(tmp_path, "only"), 0, 0, random.Random(1), 0.0) == ((), "only")
    assert pretrain_texts(fixed(tmp_path, "", " "), 0, 0, random.Random(1), 0.0) == ((), "")


def test_finetuning_target_is_the_last_round(tmp_path: Path) -> None:
    dataset = fixed(tmp_path, "a", "b")
    assert finetune_texts(dataset, 0, 0, random.Random(1), 0.0) == (("a", "b"), "last round")
    assert finetune_texts(dataset, 0, 0, random.Random(1), 1.0) == ((), "last round")


def test_dropped_alt_asks_for_no_names_where_that_caption_is_known() -> None:
    dataset = _Scene(1, 1)
    assert finetune_texts(dataset, 0, 0, random.Random(1), 1.0) == ((), "a boat")


def test_scenes_keep_their_pictures_and_change_their_texts() -> None:
    dataset = ScenesDataset(5, seed=1)
    assert dataset.example(2, 0) == dataset.example(2, 0)
    assert any(dataset.example(i, 0).alts != dataset.example(i, 1).alts for i in range(5))


def test_folder_of_scenes_is_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    list(write_scenes(folder, 3, seed=1, split="train"))
    dataset = FolderDataset(folder / "references.jsonl")
    row = json.loads((folder / "references.jsonl").read_text().splitlines()[1])
    assert len(dataset) == 3
    assert dataset.example(1, 0) == Example(tuple(row["alts"]), row["rounds"][-1])
    assert dataset.image(0)().size == (256, 256)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1: not JSON"),
        ('{"file_name": "x"}', "line 1: no text in rounds or caption"),
        ("[]", "line 1: not a JSON object"),
        ("", "no rows"),
    ],
)
def test_bad_training_files_are_refused(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(AltogetherError, match=reason):
        FolderDataset(path)


def test_training_files_are_read_as_alt_text_files_are(tmp_path: Path) -> None:
    """A byte order mark, a line separator in a text, and null for an absent alt-text."""
    path = tmp_path / "train.jsonl"
    path.write_text(
        '{"file_name": "a.png", "alt": "one", "caption": "A boat\u2028 at night."}\n'
        '{"file_name": "b.png", "alts": null, "rounds": ["b", "A boat."]}\n'
        '{"file_name": "c.png", "alts": [null, "b", NaN], "caption": "A boat."}\n'
        '{"file_name": "d.png", "text": "from metadata.jsonl", "caption": "A boat."}\n',
        "utf-8-sig",
    )
    dataset = FolderDataset(path)
    assert [dataset.example(index, 0) for index in range(4)] == [
        Example(("one",), "A boat\u2028 at night."),
        Example((), "A boat."),
        Example(("b",), "A boat."),
        Example(("from metadata.jsonl",), "A boat."),
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "x.png", "caption": null}',
        '{"file_name": "x.png", "caption": NaN}',
        '{"file_name": "x.png", "caption": 7}',
        '{"file_name": "x.png", "caption": " "}',  # as a CSV file has what is absent
        '{"file_name": "x.png", "rounds": ["b", null]}',
        '{"file_name": "x.png", "rounds": ["b", ""]}',
        '{"file_name": "x.png", "alt": 7, "caption": "A boat."}',
        '{"file_name": null, "caption": "A boat."}',
        '{"file_name": "x.png", "caption": "caf\xff"}',
    ],
)
def test_what_is_not_text_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    good = '{"file_name": "a.png", "caption": "A boat."}'
    path.write_bytes(f"{good}\n{line}\n{good}\n{line}\n".encode("latin-1"))
    with pytest.raises(
        AltogetherError, match=r"2 lines of .* cannot be trained on: line 2: .*; line 4: "
    ) as caught:
        FolderDataset(path)
    assert "\n" not in str(caught.value)


def test_bad_lines_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    good = '{"file_name": "a.png", "caption": "A boat."}'
    path.write_text(f'{good}\n{{broken\n{{"file_name": "b.png", "caption": null}}\n')
    said: list[str] = []
    dataset = FolderDataset(path, said.append, skip_bad=True)
    assert (len(dataset), dataset.bad_lines.count) == (1, 2)
    assert ": 2 lines: " in said[0] and "line 2" in said[0] and "line 3" in said[0]


def test_the_draw_of_an_image_is_that_of_any_machine_and_version(tmp_path: Path) -> None:
    """BLAKE2b of its name, as a fraction: an image that is held out stays so when a run is repeated
    elsewhere."""
    names = [f"{number}.png" for number in range(40)]
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(json.dumps({"file_name": name, "caption": "c"}) + "\n" for name in names)
    )
    digests = [hashlib.blake2b(name.encode(), digest_size=8).hexdigest() for name in names]
    wanted = [index for index, digest in enumerate(digests) if int(digest, 16) / 2**64 <= 0.4]
    assert split_held_out(FolderDataset(path), 0.4)[1] == wanted


def test_held_out_images_stay_held_out_when_others_come(tmp_path: Path) -> None:
    few, many = ScenesDataset(300, 1), ScenesDataset(600, 1)
    train, held_out = split_held_out(few, 0.1)
    assert sorted(train + held_out) == list(range(300))
    # Binomial: 30 expected, standard deviation 5.2.
    assert 12 <= len(held_out) <= 48
    assert [i for i in split_held_out(many, 0.1)[1] if i < 300] == held_out
    assert split_held_out(few, 0.0) == (list(range(300)), [])
    assert [len(part) for part in split_held_out(ScenesDataset(3, 1), 1e-9)] == [2, 1]
    with pytest.raises(AltogetherError, match="leaves none to train on"):
        split_held_out(ScenesDataset(1, 1), 0.5)


def test_rows_of_one_image_are_on_one_side(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"file_name": f"{i % 50}.png", "caption": f"caption {i}"} for i in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = FolderDataset(path)
    train, held_out = split_held_out(dataset, 0.3)
    assert held_out
    assert {dataset.key(i) for i in train}.isdisjoint(dataset.key(i) for i in held_out)
