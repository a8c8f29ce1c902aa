"""How close captions come to reference captions: CIDEr-D, BLEU, ROUGE-L."""

from altogether_rt.metrics.bleu_score import bleu, bleu_counts, bleu_from_counts
from altogether_rt.metrics.cider import CiderScores, DocumentFrequencies, cider_d
from altogether_rt.metrics.ptb import TOKENIZER, split_words, tokenize
from altogether_rt.metrics.rouge import rouge_l, rouge_l_each

__all__ = [
    "TOKENIZER",
    "CiderScores",
    "DocumentFrequencies",
    "bleu",
    "bleu_counts",
    "bleu_from_counts",
    "cider_d",
    "rouge_l",
    "rouge_l_each",
    "split_words",
    "tokenize",
]
