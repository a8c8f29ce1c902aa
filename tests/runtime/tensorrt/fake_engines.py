"""Bundles whose engines are plans of `fake_tensorrt`: their own graphs, with sizes for tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.engines import EngineProfile, EngineSpec
from altogether_rt.artifacts.manifest import FileSpec
from altogether_rt.runtime.tensorrt.engine_files import EngineFile
from tests.runtime.tensorrt.fake_tensorrt import VERSION


def engines_of(bundle: Bundle) -> dict[str, EngineFile]:
    return {
        str(spec.graph): EngineFile(spec, bundle.path / spec.file)
        for spec in bundle.manifest.engines
    }


def decoder_profiles(bundle: Bundle, num_slots: int, chunk: int) -> tuple[EngineProfile, ...]:
    """decode, verify and prefill, of sizes that a test can reach."""
    cache, width = bundle.manifest.cache, bundle.config.decoder.token_width
    places = bundle.config.capacity + chunk

    def profile(name: str, rows: int, chunk: int, tokens: int, visual: int) -> EngineProfile:
        def sizes(b: int, s: int, t: int, v: int, wanted: int) -> dict[str, tuple[int, ...]]:
            return {
                **dict.fromkeys(("token_ids", "positions", "unpad_index"), (t,)),
                "visual_tokens": (v, width),
                "visual_index": (v,),
                **dict.fromkeys(("query_lengths", "past_lengths"), (b,)),
                "pad_index": (b, s),
                "logit_index": (wanted,),
                "past": (b, cache.kv_heads, places, cache.head_dim),
            }

        minimum = sizes(1, cache.min_chunk, 1, 1, 1)
        maximum = sizes(rows, chunk, tokens, visual, tokens)
        return EngineProfile(
            name, {key: (minimum[key], maximum[key], maximum[key]) for key in minimum}
        )

    return (
        profile("decode", num_slots, cache.min_chunk, 8 * (1 + num_slots // 8), 1),
        profile("verify", num_slots, min(16, chunk), 64, 1),
        profile("prefill", num_slots, chunk, 96, 32),
    )


def with_engines(
    bundle: Bundle,
    folder: Path,
    *,
    num_slots: int = 3,
    sm: int = 89,
    version: str = VERSION,
    most_images: int = 2,
) -> Bundle:
    """The bundle with fake engines of its own graphs, linked into `folder`."""
    folder.mkdir(parents=True)
    for name in bundle.manifest.files:
        (folder / name).symlink_to(bundle.path / name)
    config, files, engines = bundle.config, dict(bundle.manifest.files), []
    size = config.encoder.image_size
    items = {"encoder": ("pixels", (size, size, 3)), "mapper": ("embeddings", ())}
    chunk = 16 * (1 + config.max_prompt_tokens // 16)
    for graph, spec in bundle.manifest.graphs.items():
        if graph == "decoder":
            profiles = decoder_profiles(bundle, num_slots, chunk)
        else:
            name, item = items[graph]
            item = item or (config.encoder.embed_dim,)
            shapes = ((1, *item), (most_images, *item), (most_images, *item))
            profiles = (EngineProfile("all", {name: shapes}),)
        file = f"{graph}.sm{sm}.plan"
        plan = {
            "graph": str(bundle.path / spec.file),
            "profiles": [profile.shapes for profile in profiles],
        }
        (folder / file).write_text(json.dumps(plan))
        files[file] = FileSpec((folder / file).stat().st_size, "0" * 64)
        engines.append(
            EngineSpec(graph, file, "0" * 64, sm, "tensorrt_rtx", version, profiles)  # type: ignore[arg-type]
        )
    target = replace(bundle.manifest.target, runtime="tensorrt", device="cuda")
    manifest = replace(bundle.manifest, target=target, files=files, engines=tuple(engines))
    return Bundle(folder, manifest)
