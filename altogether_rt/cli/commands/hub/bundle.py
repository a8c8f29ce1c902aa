"""`altogether-rt bundle`: fetches a bundle by its name, and publishes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.artifacts.bundle import Bundle, is_checkpoint
from altogether_rt.cli.downloads import ensure_captioner
from altogether_rt.cli.output import Output, format_bytes
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.lookup import locate_bundle, locate_captioner
from altogether_rt.hub.names import find_name, is_hub_id
from altogether_rt.hub.target import CHECKPOINT

__all__ = ["pull_command", "push_command"]

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON line instead of text.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def pull_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name listed by altogether-rt models; the id of a captioner or bundle on "
            "the hub (owner/name or owner/name@REVISION); or the folder of a bundle.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Also copy it to this folder, which must not exist.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|tensorrt",
            help="What to prepare it for; auto is a GPU if one is usable here, else the CPU.",
        ),
    ] = "auto",
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Download a captioner by name, unless it is here, and make a bundle of it for this machine.

    For a GPU that PyTorch and Triton can use, the imported checkpoint is kept instead, which is
    faster there: see `altogether-rt doctor`. What was published as a bundle is used as it is;
    PyTorch is needed for everything else. All files are checked against the hashes stated by the
    hub, or by the bundle's manifest. From then on `--bundle NAME` starts at once, and needs no
    network.
    """
    from altogether_rt.hub.bundles import copy_bundle, copy_checkpoint, published_files

    output = Output(as_json=as_json, quiet=quiet)
    if out is not None and out.exists():
        raise AltogetherError(f"{out} exists already: give another --out.")
    is_name = find_name(name) is not None
    if not is_name and out is None:
        raise typer.BadParameter("a folder is copied, so name another.", param_hint="--out")
    ensure_captioner(name, output, device=device, download=True, to_run=False)
    folder = Path(locate_captioner(name, device))
    data: dict[str, str | int]
    if is_name and is_checkpoint(folder):
        if out is not None:
            copy_checkpoint(folder, out)
        size = sum(path.stat().st_size for path in folder.iterdir())
        data = {"checkpoint": str(out or folder), "target": CHECKPOINT, "bytes": size}
        line = f"{out or folder}  {format_bytes(size)}  checkpoint"
    else:
        bundle = Bundle.load(folder)
        if out is not None:
            bundle = copy_bundle(published_files(bundle, with_learnt=True), out)
        size = sum(spec.bytes for spec in bundle.manifest.files.values())
        data = {
            "bundle": str(bundle.path),
            "bundle_id": bundle.bundle_id,
            "target": bundle.manifest.target.name,
            "bytes": size,
        }
        line = f"{bundle.path}  {format_bytes(size)}  bundle {bundle.bundle_id}"
    output.result(
        data, [line, f"altogether-rt caption photos/ --bundle {name if out is None else out}"]
    )


def push_command(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="Folder of a bundle, or a name that is on this machine."
        ),
    ],
    hub: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Publish it under this id on the hub; log in with hf auth login.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Publish it as this folder, which must not exist.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            help="Licence of the weights, for the model card. Default: that of their origin."
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --hub: make a new repository public.")
    ] = False,
    with_learnt: Annotated[
        bool,
        typer.Option(
            "--with-learnt",
            help="Also publish what it has learned from your captions (learn), which contains "
            "words of them.",
        ),
    ] = False,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Publish a bundle with a model card: what it is, its parity, origin and licence.

    A new repository on the hub is private unless you pass --public. Whoever has access can use the
    bundle as `--bundle OWNER/NAME`, checked against its manifest.
    """
    from altogether_rt.hub.bundles import copy_bundle, published_files
    from altogether_rt.hub.card import CARD_NAME, find_licence, model_card

    if (hub is None) == (out is None):
        raise typer.BadParameter("give either --hub OWNER/NAME or --out FOLDER.")
    output = Output(as_json=as_json, quiet=quiet)
    opened = Bundle.load(locate_bundle(bundle))
    licence = licence or find_licence(opened)
    card = model_card(opened, licence, hub or str(out))
    files = {**published_files(opened, with_learnt=with_learnt), CARD_NAME: card.encode()}
    if out is not None:
        copy_bundle(files, out)
        output.result({"bundle_id": opened.bundle_id, "folder": str(out)}, f"published as {out}")
        return
    from altogether_rt.hub.publish import push_bundle

    assert hub is not None
    if not is_hub_id(hub):
        raise typer.BadParameter(f"{hub!r} is not an id such as owner/name.", param_hint="--hub")
    message = f"Bundle {opened.bundle_id} of altogether-rt"
    commit = push_bundle(files, hub, message, public=public, quiet=quiet or as_json)
    output.result(
        {"bundle_id": opened.bundle_id, "hub_id": hub, "revision": commit},
        [f"published as {hub} at {commit[:12]}", f"altogether-rt bundle pull {hub}"],
    )
