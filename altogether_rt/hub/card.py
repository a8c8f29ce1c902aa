"""The card of a published bundle: what it is, parity, provenance, licence, how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from altogether_rt.artifacts.bundle import Bundle, is_starter
from altogether_rt.artifacts.manifest import BundleManifest
from altogether_rt.artifacts.origin import SCENES, hub_origin, trained_on
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.catalogue import read_catalogue

__all__ = ["CARD_NAME", "find_licence", "model_card"]

CARD_NAME: Final = "README.md"

_FIGURES: Final = (
    ("mean cosine", "mean_cosine", ".6f"),
    ("worst row", "worst_cosine", ".6f"),
    ("same token", "greedy", ".1%"),
    ("KL", "kl", ".4f"),
    ("worst KL", "worst_kl", ".4f"),
    ("NLL of text", "nll", ".4f"),
    ("more than the checkpoint's", "nll_difference", "+.4f"),
)


def find_licence(bundle: Bundle) -> str:
    """The licence of the weights, as their origin says. Raises AltogetherError if it does not."""
    if is_starter(bundle.path):
        return read_catalogue()["starter"].licence
    origin = hub_origin(bundle.manifest.provenance.get("checkpoint"))
    licence = None if origin is None else origin.get("licence")
    if not isinstance(licence, str) or licence == "unknown":
        raise AltogetherError(
            f"{bundle.path} does not say under which licence its weights are: give it by --licence."
        )
    return licence


def model_card(bundle: Bundle, licence: str, name: str) -> str:
    """Markdown with YAML front matter. name: how the bundle is called where it is published."""
    manifest = bundle.manifest
    origin = hub_origin(manifest.provenance.get("checkpoint"))
    lines = [
        *_front_matter(licence, origin),
        f"# {_plain(manifest.config.name)} for {_plain(manifest.target.name)}",
        "",
        *_what_it_is(manifest),
        "",
        "## Use",
        "",
        "```",
        f"pip install 'altogether-rt[{_extra(manifest)},hub]'",
        f"altogether-rt caption photos/ --alt alts.jsonl --bundle {name}",
        "```",
        "",
        "## Parity",
        "",
        *_parity(manifest.parity),
        "",
        "## Provenance",
        "",
        *_provenance(bundle, licence, origin),
    ]
    return "\n".join(lines) + "\n"


def _extra(manifest: BundleManifest) -> str:
    """The extra with the runtime that the bundle needs."""
    if manifest.target.device == "cpu":
        return "cpu"
    return "tensorrt" if manifest.target.runtime == "tensorrt" else "gpu"


def _front_matter(licence: str, origin: Mapping[str, Any] | None) -> Iterator[str]:
    """JSON strings are YAML's too, so no value can end its line."""
    yield "---"
    yield f"license: {json.dumps(licence.lower())}"
    yield "library_name: altogether-rt"
    yield "pipeline_tag: image-to-text"
    yield "tags: [image-captioning, alt-text, altogether-rt]"
    if origin is not None:
        yield f"base_model: {json.dumps(str(origin.get('id')))}"
    yield "---"
    yield ""


def _what_it_is(manifest: BundleManifest) -> Iterator[str]:
    config, target = manifest.config, manifest.target
    encoder, mapper, decoder = config.encoder, config.mapper, config.decoder
    reads = "with their alt-texts" if config.prompt.use_alt else "and never reads alt-texts"
    yield f"A captioner for altogether-rt: it captions images {reads}."
    yield ""
    yield f"- encoder: {_plain(encoder.name)}, {encoder.image_size} px"
    yield f"- mapper: {mapper.kind}, {mapper.prefix_length} visual tokens"
    yield (
        f"- decoder: {_plain(decoder.family)}, {decoder.layers} layers, {decoder.width} wide, "
        f"{decoder.vocab_size} tokens"
    )
    yield f"- runs on: {_plain(target.runtime)}, {_plain(target.device)}"
    yield f"- precision: {_plain(target.precision)}"
    yield f"- size: {sum(spec.bytes for spec in manifest.files.values()) / 1e6:.0f} MB"
    if trained_on(manifest.provenance.get("checkpoint")) == SCENES:
        yield "- knows: drawn scenes alone; captions of photographs describe scenes"


def _parity(parity: Mapping[str, Any]) -> Iterator[str]:
    stages = {
        stage: figures
        for stage, figures in parity.items()
        if isinstance(figures, Mapping) and "mean_cosine" in figures
    }
    if not stages:
        yield "Not measured."
        return
    yield f"With the checkpoint in PyTorch, on {_plain(parity.get('inputs', 'unknown inputs'))}:"
    yield ""
    yield "| stage | " + " | ".join(title for title, _, _ in _FIGURES) + " |"
    yield "|---" * (1 + len(_FIGURES)) + "|"
    for stage, figures in stages.items():
        cells = (_figure(figures.get(key), form) for _, key, form in _FIGURES)
        yield f"| {_plain(stage)} | " + " | ".join(cells) + " |"


def _figure(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""


def _provenance(bundle: Bundle, licence: str, origin: Mapping[str, Any] | None) -> Iterator[str]:
    provenance = bundle.manifest.provenance
    checkpoint = provenance.get("checkpoint", {})
    yield f"- bundle: {bundle.bundle_id}; `altogether-rt inspect` checks it and shows all of this"
    yield (
        f"- checkpoint: {_plain(checkpoint.get('name', 'unknown'))}, SHA-256 "
        f"{_plain(checkpoint.get('sha256', 'unknown'))}"
    )
    if origin is not None:
        yield f"- weights: {_plain(origin.get('id'))} at {_plain(origin.get('revision'))}"
    yield f"- licence of the weights: {_plain(licence)}"
    yield f"- exported: {_plain(provenance.get('created', 'unknown'))}"
    tools = provenance.get("tools", {})
    if isinstance(tools, Mapping):
        yield "- with: " + ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in tools.items())


def _plain(value: object) -> str:
    """A value of a manifest, which may be a stranger's, as one line that is no markup."""
    text = " ".join(str(value).split())[:200]
    return re.sub(r"[^\w .,:;+/()%=@-]", "?", text)
