"""Trains the byte-level BPE tokenizer of a captioner that is trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from altogether_rt.artifacts.files import write_whole
from altogether_rt.config import DecoderConfig
from altogether_rt.errors import ConfigError
from altogether_rt.train.data import Dataset

__all__ = ["train_tokenizer"]

_MAX_EXAMPLES = 20_000

#: OPT's special tokens in OPT's order: pad has id 1, end of text id 2.
_SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


def train_tokenizer(dataset: Dataset, vocab_size: int, decoder: DecoderConfig, path: Path) -> None:
    """Train a tokenizer on the texts of `dataset` and write it to the file `path`.

    Raises ConfigError if the vocabulary does not fit the decoder's.
    """
    if vocab_size > decoder.vocab_size:
        raise ConfigError("the recipe's vocab_size must not exceed decoder.vocab_size.")
    if (decoder.pad_id, decoder.eos_id) != (1, 2):
        raise ConfigError(
            "a trained tokenizer has pad_id 1 and eos_id 2: set decoder.pad_id and decoder.eos_id."
        )
    tokenizer = Tokenizer(models.BPE())
    # The prefix space gives a name at the start of an alt-text the same tokens as within a caption.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(dataset), trainer)
    write_whole(path, tokenizer.to_str(pretty=True))


def _texts(dataset: Dataset) -> Iterator[str]:
    for index in range(min(_MAX_EXAMPLES, len(dataset))):
        example = dataset.example(index, 0)
        yield from example.alts
        yield example.caption
