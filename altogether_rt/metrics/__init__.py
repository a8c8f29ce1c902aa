"""How close captions come to reference captions: CIDEr-D, BLEU-4, ROUGE-L."""

from altogether_rt.metrics.bleu import bleu
from altogether_rt.metrics.cider import DocumentFrequencies, cider_d
from altogether_rt.metrics.rouge import rouge_l
from altogether_rt.metrics.tokenize import tokenize

__all__ = ["DocumentFrequencies", "bleu", "cider_d", "rouge_l", "tokenize"]
