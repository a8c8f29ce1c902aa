"""The table, the verdict and the plot of `benchmarks/rounds.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studies.chart import Bars, bars_svg
from studies.record import choose_words, estimate, percent

__all__ = ["contestants", "to_markdown", "to_svg", "verdicts"]

_COLUMNS = {
    "visual_facts_right": "visual facts right",
    "kind_right": "kinds",
    "relation_right": "relations",
    "background_right": "backgrounds",
    "names_kept": "names kept",
    "wrong_corrected": "wrong facts corrected",
    "invented": "captions with an invented name",
}

Runs = Sequence[Mapping[str, Any]]
#: Shares by column, a value for each seed.
Figures = dict[str, list[float]]


def contestants(runs: Runs) -> dict[str, Figures]:
    """Shares from 0 to 1 of each captioner, in order of the seeds."""
    found: dict[str, Figures] = {}
    for last in sorted({run["round"] for run in runs}):
        for label, with_alts, way in (
            ("trained and captioning with alt-texts", True, "with_alts"),
            ("trained with alt-texts, captioning without", True, "without_alts"),
            ("trained and captioning without alt-texts", False, "without_alts"),
        ):
            scores = [
                run[way]
                for run in sorted(runs, key=lambda run: int(run["seed"]))
                if run["round"] == last and run["trained_with_alts"] == with_alts
            ]
            if scores:
                found[f"round {last}, {label}"] = _shares(scores)
    return found


def _shares(scores: Sequence[Mapping[str, Any]]) -> Figures:
    return {key: [(score[key] or 0.0) / 100 for score in scores] for key in _COLUMNS}


def verdicts(runs: Runs) -> list[str]:
    """Differences between the rounds, and between alt-texts and none, with intervals over seeds."""
    found = contestants(runs)
    given, without = (
        {last: found.get(f"round {last}, trained and captioning {way}") for last in (2, 3)}
        for way in ("with alt-texts", "without alt-texts")
    )
    if not all((*given.values(), *without.values())):
        return ["Too few runs for a verdict."]
    pairs: tuple[tuple[str, str, Figures | None, Figures | None], ...] = (
        ("visual_facts_right", "Round 3 against round 2, with alt-texts", given[3], given[2]),
        ("relation_right", "Round 3 against round 2, with alt-texts", given[3], given[2]),
        ("names_kept", "Round 3 against round 2, with alt-texts", given[3], given[2]),
        ("names_kept", "With against without alt-texts, round 3", given[3], without[3]),
        ("visual_facts_right", "With against without alt-texts, round 3", given[3], without[3]),
        ("invented", "With against without alt-texts, round 3", given[3], without[3]),
    )
    lines = []
    for column, what, one, other in pairs:
        assert one is not None and other is not None
        both = zip(one[column], other[column], strict=False)
        difference = [a - b for a, b in both]
        if len(difference) < 2:
            return ["Too few seeds for a verdict."]
        gain = estimate(difference)
        word = choose_words(gain, "more", "fewer", "no difference that can be told")
        lines.append(
            f"{what}: {_COLUMNS[column]}, {word} ({100 * gain.mean:+.1f} points, 95 % "
            f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f})."
        )
    return lines


def to_markdown(result: Mapping[str, Any]) -> str:
    """The result as a page."""
    runs, settings = result["runs"], result["settings"]
    lines = [
        "# Rounds of annotation, on scenes",
        "",
        _about(result),
        "",
        f"Percent, mean and 95 % interval over seeds (Student's t), of {len(runs)} runs.",
        "",
        "| captions by | " + " | ".join(_COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(_COLUMNS),
    ]
    for label, figures in _all(result).items():
        cells = (percent(estimate(figures[key])) for key in _COLUMNS)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "![the same figures as a plot](rounds.svg)", "", "## Findings", ""]
    lines += [f"- {line}" for line in verdicts(runs)]
    lines += ["", *_LIMITS, "", "## How", "", _how(settings, runs), ""]
    return "\n".join(lines)


_LIMITS = (
    "The paper's claims of this kind are that a further round makes captions better, and that a",
    "captioner that reads alt-texts knows what no picture shows. Here a round is better by",
    "construction: what the second leaves out is known, and a captioner learns to leave it out. So",
    "this shows that training follows its annotation, not what people would write. Without",
    "alt-texts a captioner cannot know a name; trained on captions with names all the same, it",
    "invents some, and their number differs much between seeds. The starter itself was trained on",
    "third rounds, and far longer: its figures are an upper bound for round 3.",
)


def _all(result: Mapping[str, Any]) -> dict[str, Figures]:
    baselines = result["baselines"]
    return {
        "the alt-texts themselves": _shares([baselines["alts"]]),
        "the starter, with alt-texts": _shares([baselines["starter_with_alts"]]),
        "the starter, without": _shares([baselines["starter_without_alts"]]),
        **contestants(result["runs"]),
    }


def _about(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"`{result['command']}`, {machine['date']}, {machine['processor']}, {versions}."


def _how(settings: Mapping[str, Any], runs: Runs) -> str:
    minutes = sum(run["cpu_s"] for run in runs) / 60
    return (
        f"From the starter's weights, {settings['steps']} steps of {settings['batch_size']} on "
        f"{settings['scenes']} scenes (train split, seed {settings['scenes_seed']}); with "
        f"alt-texts, they are left out with probability {settings['alt_dropout']:g}. Greedy "
        f"captions of {settings['held_out']} scenes (test split, seed "
        f"{settings['held_out_seed']}), scored as `altogether-rt scenes score` does. "
        f"{minutes:.0f} minutes of processor time."
    )


def to_svg(result: Mapping[str, Any]) -> str:
    """A group of bars for some of the columns."""
    figures = _all(result)
    shown = ("visual_facts_right", "relation_right", "names_kept", "invented")
    note = (
        "Scenes, not photographs: the starter fine-tuned on annotations that end with the second "
        "or the third round, scored by the facts of held-out scenes. Bars are means over seeds, "
        "lines their 95 % intervals (Student's t)."
    )
    return bars_svg(
        "Rounds of annotation, with and without alt-texts, on scenes",
        [Bars(_COLUMNS[key], {who: f[key] for who, f in figures.items()}) for key in shown],
        [note, _about(result)],
    )
