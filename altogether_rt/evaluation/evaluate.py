"""Computes all metrics of a file of captions, and the differences to another file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.inputs import Captions, References
from altogether_rt.evaluation.meteor import meteor_metric
from altogether_rt.evaluation.metric import (
    Bootstrap,
    Difference,
    Estimate,
    Metric,
    Unavailable,
    differences,
    estimates,
)
from altogether_rt.evaluation.options import EvaluationOptions
from altogether_rt.evaluation.overlap import overlap_metrics
from altogether_rt.evaluation.phrases import phrase_metrics
from altogether_rt.evaluation.reference_free import reference_free_metrics

__all__ = ["Evaluation", "Results", "evaluate", "results"]


@dataclass
class Evaluation:
    """The metrics of one file of captions."""

    captions: Captions
    references: References | None
    metrics: dict[str, Metric] = field(default_factory=dict)
    unavailable: dict[str, Unavailable] = field(default_factory=dict)
    image_problems: Problems = field(default_factory=Problems)

    def alts(self) -> dict[str, tuple[str, ...]]:
        """The alt-texts of captioned images: the row's, or those in the references' record.

        Without the images of which it is not known whether they have any.
        """
        others = self.references.alts if self.references is not None else {}
        known = {**others, **{image: alts for image, alts in self.captions.alts.items() if alts}}
        for image in self.captions.alts:
            known.setdefault(image, ())
        return {image: known[image] for image in self.captions.texts if image in known}

    def without_reference(self) -> list[str]:
        """Captioned images that have no reference."""
        known = self.references.texts if self.references else {}
        return [image for image in self.captions.texts if image not in known]

    def without_caption(self) -> list[str]:
        """Images that have references and no row at all."""
        known = self.references.texts if self.references else {}
        rows = (self.captions.texts, self.captions.errors)
        return [image for image in known if not any(image in row for row in rows)]

    def counts(self) -> dict[str, Any]:
        """Counts of captions and references, and of what is missing or unreadable."""
        captions, references = self.captions, self.references
        counts: dict[str, Any] = {
            "captions": len(captions.texts),
            "error_rows": len(captions.errors),
            "error_classes": captions.error_counts(),
            "repeated_rows": captions.num_repeated,
            "unreadable_rows": captions.problems.count,
            "with_alt_text": sum(map(bool, self.alts().values())),
        }
        if references is not None:
            without = self.without_reference()
            counts |= {
                "images_with_references": len(references.texts),
                "references": sum(map(len, references.texts.values())),
                "unreadable_references": references.problems.count,
                "scored_with_references": len(captions.texts) - len(without),
                "captions_without_reference": len(without),
                "references_without_caption": len(self.without_caption()),
            }
        if "clip_score" in self.metrics or self.image_problems:
            counts["images_without_embedding"] = self.image_problems.count
        return counts


@dataclass(frozen=True)
class Results:
    """The estimates of one system, and the differences to another system if there is one."""

    evaluation: Evaluation
    estimates: Mapping[str, Estimate]  # by the metric's key
    against: Evaluation | None = None
    differences: tuple[Difference, ...] = ()


def evaluate(
    captions: Captions, references: References | None, options: EvaluationOptions
) -> Iterator[Evaluation | str]:
    """Yields the name of each step before it is computed, and the evaluation at the end.

    Raises AltogetherError if references are given but none is of a captioned image.
    """
    evaluation = Evaluation(captions, references)
    scored = dict(captions.texts)
    if options.missing_as_empty and references is not None:
        scored |= dict.fromkeys((*captions.errors, *evaluation.without_caption()), "")
        scored |= captions.texts
    known = references.texts if references is not None else {}
    if references is not None:
        _check_overlap(captions, references)
        yield "n-gram overlap"
        _take(evaluation, overlap_metrics(scored, known))
        yield "METEOR"
        _take(evaluation, [_meteor(scored, known, options)])
        yield "noun phrases"
        _take(evaluation, _phrases(scored, known, options))
    if options.clip is not None:
        yield "CLIP score"
        clip = options.clip.metrics(
            captions.texts, captions.files, evaluation.image_problems, options.advance
        )
        _take(evaluation, clip)
    yield "names and lengths"
    _take(evaluation, reference_free_metrics(captions.texts, evaluation.alts(), known))
    yield evaluation


def results(evaluation: Evaluation, against: Evaluation | None, bootstrap: Bootstrap) -> Results:
    """The estimates with their intervals, and the paired differences to `against`."""
    metrics = evaluation.metrics
    values = dict(zip(metrics, estimates(list(metrics.values()), bootstrap), strict=True))
    if against is None:
        return Results(evaluation, values)
    pairs = [(metrics[key], against.metrics[key]) for key in metrics if key in against.metrics]
    return Results(evaluation, values, against, tuple(differences(pairs, bootstrap)))


def _take(evaluation: Evaluation, metrics: Iterable[Metric | Unavailable]) -> None:
    for metric in metrics:
        if isinstance(metric, Metric):
            evaluation.metrics[metric.key] = metric
        else:
            evaluation.unavailable[metric.key] = metric


def _meteor(
    captions: Mapping[str, str], known: Mapping[str, tuple[str, ...]], options: EvaluationOptions
) -> Metric | Unavailable:
    if not options.meteor:
        return Unavailable("meteor", "METEOR", "switched off by --no-meteor")
    return meteor_metric(captions, known)


def _phrases(
    captions: Mapping[str, str], known: Mapping[str, tuple[str, ...]], options: EvaluationOptions
) -> Iterator[Metric | Unavailable]:
    if options.phrases is None:
        yield Unavailable("phrase_f1", "noun phrases, F1", options.why_no_phrases)
    else:
        yield from phrase_metrics(captions, known, options.phrases, options.advance)


def _check_overlap(captions: Captions, references: References) -> None:
    if any(image in references.texts for image in captions.texts):
        return
    ours, theirs = next(iter(captions.texts)), next(iter(references.texts))
    raise AltogetherError(
        f"no image of {captions.path} is in {references.path}: file_name must be the same in "
        f"both files, but the first ones are {ours!r:.80} and {theirs!r:.80}."
    )
