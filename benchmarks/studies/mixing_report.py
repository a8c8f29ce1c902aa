"""The table, the verdict and the plot of `benchmarks/mixing.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.chart import Panel, lines_svg
from studies.record import Estimate, choose_words, estimate, percent

__all__ = ["to_markdown", "to_svg", "verdict"]

#: The ratio with which the paper trains.
PAPER_RATIO = 0.15

_COLUMNS = {
    "zero_shot": "zero-shot, kind × colour",
    "zero_shot_kind": "its kind",
    "zero_shot_colour": "its colour",
    "image_to_caption_r1": "image → caption R@1",
    "image_to_caption_r5": "R@5",
    "caption_to_image_r1": "caption → image R@1",
    "caption_to_image_r5": "R@5",
    "image_to_alt_r5": "image → alt-text R@5",
    "alt_to_image_r5": "alt-text → image R@5",
}
_PANELS = {
    "Zero-shot classification": {
        "kind × colour": "zero_shot",
        "kind": "zero_shot_kind",
        "colour": "zero_shot_colour",
    },
    "Retrieval with annotators' captions": {
        "image → caption R@1": "image_to_caption_r1",
        "caption → image R@1": "caption_to_image_r1",
    },
    "Retrieval with alt-texts": {
        "image → alt-text R@5": "image_to_alt_r5",
        "alt-text → image R@5": "alt_to_image_r5",
    },
}

_SHAPE = (
    "The paper trains CLIP with 15 % of captions. Its shape means here: that share is better than "
    "no captions, and captions alone are worse than the best share. A difference counts if the "
    "95 % interval of the paired differences over seeds does not contain 0."
)

Runs = Sequence[Mapping[str, Any]]
ByRatio = dict[float, dict[int, float]]


def by_ratio(runs: Runs, figure: str) -> ByRatio:
    """ratio -> seed -> value."""
    found: ByRatio = {}
    for run in sorted(runs, key=lambda run: (run["ratio"], run["seed"])):
        found.setdefault(run["ratio"], {})[run["seed"]] = run[figure]
    return found


def difference(values: ByRatio, ratio: float, other: float) -> list[float]:
    """Figures at `ratio` minus those at `other`, for each seed that has both."""
    common = values[ratio].keys() & values[other].keys()
    return [values[ratio][seed] - values[other][seed] for seed in sorted(common)]


def verdict(runs: Runs, figure: str = "zero_shot") -> str:
    """Whether the figure has the paper's shape: a share of captions is better than none, and better
    than captions alone.

    A difference counts if the interval of the paired differences over seeds does not contain 0.
    """
    values = by_ratio(runs, figure)
    if not {0.0, PAPER_RATIO, 1.0} <= values.keys() or min(map(len, values.values())) < 2:
        return "Too few runs for a verdict."
    best = max(values, key=lambda ratio: estimate(list(values[ratio].values())).mean)
    gain = estimate(difference(values, PAPER_RATIO, 0.0))
    loss = estimate(difference(values, best, 1.0)) if best < 1 else None
    some = choose_words(
        gain, "are better than none", "are worse than none", "and none cannot be told apart"
    )
    text = (
        f"{100 * PAPER_RATIO:g} % of captions {some} ({_points(gain)}); the best share is "
        f"{100 * best:g} %"
    )
    if loss is not None:
        only = choose_words(loss, "is better than", "is worse than", "cannot be told apart from")
        text += f", which {only} captions alone ({_points(loss)})"
    if gain.low <= 0 or loss is None or loss.low <= 0:
        return f"{text}. This is not the paper's shape."
    larger = ", but the best share is a larger one" if best > PAPER_RATIO else ""
    return f"{text}. This is the paper's shape{larger}."


def _points(found: Estimate) -> str:
    return f"{100 * found.mean:+.1f} points, 95 % {100 * found.low:+.1f} to {100 * found.high:+.1f}"


def to_markdown(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    runs, settings = result["runs"], result["settings"]
    lines = [
        "# A share of captions among alt-texts, on scenes",
        "",
        _about(result),
        "",
        f"Shares in percent, mean and 95 % interval over seeds (Student's t); of {len(runs)} runs.",
        "",
        "| share of captions | " + " | ".join(_COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(_COLUMNS),
    ]
    figures = {figure: by_ratio(runs, figure) for figure in _COLUMNS}
    for ratio in figures["zero_shot"]:
        cells = (percent(estimate(list(figures[f][ratio].values()))) for f in _COLUMNS)
        lines.append(f"| {100 * ratio:g} % | " + " | ".join(cells) + " |")
    lines += ["", "![the same figures as a plot](mixing.svg)", "", "## Findings", "", _SHAPE, ""]
    for figure in ("zero_shot", "image_to_caption_r1", "alt_to_image_r5"):
        lines.append(f"- **{_COLUMNS[figure]}**: {verdict(runs, figure)}")
    lines += ["", *_LIMITS, "", "## How", "", _how(settings, result), ""]
    return "\n".join(lines)


_LIMITS = (
    "What it cannot show: the world of scenes has 24 kinds and no long tail, so alt-texts name",
    "nothing that a classifier is asked for, and their names, of single things, are never seen",
    "again. The starter's captions are nearly free of errors and all of one wording, which the",
    "captions to retrieve share. On the web, captions are less sure and alt-texts know more. The",
    "best share is chosen from the runs that it is compared in, which overestimates its lead.",
)


def _about(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"`{result['command']}`, {machine['date']}, {machine['processor']}, {versions}."


def _how(settings: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    minutes = sum(run["cpu_s"] for run in result["runs"]) / 60
    tower = (
        "the image tower is the starter's, locked, and the text tower starts from random weights"
        if settings["image_tower"] == "locked"
        else f"both towers start from random weights, at {settings['image_size']} pixels"
    )
    return (
        f"{settings['scenes']} scenes of the train split (seed {settings['scenes_seed']}), "
        f"captioned by the starter; the {settings['scenes_with_alt_text']} that have an alt-text "
        f"are trained on, {settings['steps']} steps of {settings['batch_size']}, contrastive loss "
        f"alone; {tower}. Texts are drawn as `altogether-rt mix` draws them, anew every epoch; a "
        "seed has the same initial weights and the same order of pictures at every share. "
        f"Evaluated on {settings['held_out']} scenes with one group (classes: 24 kinds × 10 "
        f"colours, chance 0.4 %) and {settings['held_out']} of any kind (test split, seed "
        f"{settings['held_out_seed']}), where equal texts count as equal. {minutes:.0f} minutes "
        "of processor time."
    )


def to_svg(result: Mapping[str, Any]) -> str:
    """A panel for each group of figures."""
    panels = [
        Panel(
            title,
            {
                name: {
                    ratio: list(seeds.values())
                    for ratio, seeds in by_ratio(result["runs"], figure).items()
                }
                for name, figure in figures.items()
            },
        )
        for title, figures in _PANELS.items()
    ]
    note = (
        "Scenes, not ImageNet: a small CLIP, trained on drawn scenes whose texts are alt-texts or "
        "the starter's captions, evaluated on held-out scenes. Lines are means over seeds, bars "
        "their 95 % intervals (Student's t), dots the seeds."
    )
    return lines_svg(
        "What a share of captions does for CLIP, on scenes",
        "share of captions",
        panels,
        [note, _about(result)],
    )
