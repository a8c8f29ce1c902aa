"""The table of a bundle's parity figures, for `export` and `inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from altogether_rt.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["parity_table"]

_COLUMNS = ("stage", "mean cosine", "worst row", "same token", "KL", "worst KL", "NLL of text")


def parity_table(output: Output, parity: Mapping[str, Any], title: str) -> Table:
    """Parity by stage, as a manifest lists it; bundles of older versions lack some figures.

    KL is the divergence of the next token's distribution in nats. The last column is the negative
    log-likelihood of the alt-texts in the checkpoint, and how much larger it is in the bundle.
    """
    return output.table(title, _COLUMNS, _rows(parity))


def _rows(parity: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for stage, figures in parity.items():
        if not isinstance(figures, Mapping):
            continue
        greedy, nll = figures.get("greedy"), figures.get("nll")
        yield (
            stage,
            f"{figures['mean_cosine']:.6f}",
            f"{figures['worst_cosine']:.6f}",
            "" if greedy is None else f"{100 * greedy:.1f} %",
            *(
                "" if figures.get(key) is None else f"{figures[key]:.4f}"
                for key in ("kl", "worst_kl")
            ),
            "" if nll is None else f"{nll:.3f} {figures['nll_difference']:+.4f}",
        )
