"""`altogether-rt inspect`: describes a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import GRAPH_NAMES
from altogether_rt.artifacts.origin import SCENES, trained_on
from altogether_rt.cli.output import Output, format_bytes
from altogether_rt.cli.tables.parity import parity_table
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import MissingDependencyError
from altogether_rt.hub.lookup import locate_bundle
from altogether_rt.runtime.cpu.prepared import find_prepared

__all__ = ["inspect_command"]

_SHOWN_NAMES = 6


def inspect_command(
    bundle: Annotated[
        str,
        typer.Argument(
            help="Folder of a bundle, or a name: `starter`, or one that is on this machine."
        ),
    ] = "starter",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False,
) -> None:
    """Describe a bundle, after checking that its files are the ones that were exported."""
    output = Output(as_json=as_json)
    opened = Bundle.load(locate_bundle(bundle))
    manifest = opened.manifest
    size = sum(spec.bytes for spec in manifest.files.values())
    data = {
        "path": str(opened.path),
        "bundle_id": opened.bundle_id,
        "bytes": size,
        "prepared": _prepared(opened),
        "trained_on": trained_on(manifest.provenance.get("checkpoint")),
        **manifest.to_dict(),
    }
    if as_json:
        output.result(data)
        return
    title = f"{manifest.config.name}  (bundle {opened.bundle_id}, {format_bytes(size)})"
    output.show(output.table(title, ("", ""), _facts(data, manifest.config)))
    files = [(name, format_bytes(spec.bytes)) for name, spec in manifest.files.items()]
    output.show(output.table("files", ("file", "size"), files))
    if manifest.parity:
        origin = f"parity with PyTorch, on {manifest.parity.get('inputs', 'unknown inputs')}"
        output.show(parity_table(output, manifest.parity, origin))


def _prepared(bundle: Bundle) -> str | None:
    """Folder where the bundle is prepared for this machine; None if it is not."""
    try:
        prepared = find_prepared(bundle)
    except MissingDependencyError:  # no runtime for it is installed
        return None
    return None if prepared is None else str(prepared.path)


def _facts(data: Mapping[str, Any], config: CaptionerConfig) -> Iterator[tuple[str, str]]:
    encoder, mapper, decoder = config.encoder, config.mapper, config.decoder
    if data["trained_on"] == SCENES:
        yield "knows", "drawn scenes alone (altogether-rt scenes)"
    if not config.prompt.use_alt:
        yield "alt-texts", "never read: captions come from the images alone"
    if config.prompt.chat is not None:
        asked = config.prompt.chat.caption
        yield "asked", f"{asked.before_alt} … {asked.after_alt.strip()}"
        yield "asked without alt-text", asked.no_alt
    target, provenance = data["target"], data["provenance"]
    checkpoint = provenance.get("checkpoint", {})
    yield "target", f"{target['name']} ({target['runtime']}, {target['device']})"
    yield "precision", target["precision"]
    yield "encoder", f"{encoder.name}, {encoder.image_size} px, {encoder.embed_dim} wide"
    depth = f"{mapper.layers} layers, " if mapper.kind == "transformer" else ""
    yield "mapper", f"{mapper.kind}, {depth}{mapper.prefix_length} visual tokens"
    if config.tiles is not None:
        yield (
            "tiles",
            f"{config.max_visual_tokens // mapper.prefix_length} at most, of images with a longest "
            f"edge of {config.tiles.longest_edge} px",
        )
    yield (
        "decoder",
        f"{decoder.family}, {decoder.layers} layers, {decoder.width} wide, "
        f"{decoder.heads} heads, {decoder.vocab_size} tokens",
    )
    yield (
        "lengths",
        f"prompt {config.max_prompt_tokens}, caption {config.max_caption_tokens} tokens at most",
    )
    kept = provenance.get("kept")
    if kept is not None and kept["products"]:
        names = [name.removeprefix("decoder.") for name in kept["products"]]
        shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
        yield "kept precise", f"{len(names)} products, {100 * kept['share']:.0f} % ({shown})"
    for builder, sms in _engines(data["engines"]).items():
        yield "engines", f"SM {', '.join(sms)}, by {builder}"
    if data["prepared"] is not None:
        yield "prepared", data["prepared"]
    yield "checkpoint", f"{checkpoint.get('name', 'unknown')} {checkpoint.get('sha256', '')[:12]}"
    yield "created", str(provenance.get("created", "unknown"))
    tools = provenance.get("tools", {})
    yield "with", ", ".join(f"{name} {version}" for name, version in tools.items())


def _engines(engines: Sequence[Mapping[str, Any]]) -> Mapping[str, list[str]]:
    """By builder, the compute capabilities for which all graphs were compiled."""
    graphs: dict[tuple[str, int], set[str]] = {}
    for engine in engines:
        builder = f"{engine['builder']} {engine['builder_version']}"
        graphs.setdefault((builder, engine["sm"]), set()).add(engine["graph"])
    found: dict[str, list[str]] = {}
    for (builder, sm), names in sorted(graphs.items()):
        if names == set(GRAPH_NAMES):
            found.setdefault(builder, []).append(str(sm))
    return found
