"""`bundle.json`, the description of a bundle, as frozen data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from altogether_rt.artifacts.engines import EngineSpec
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict

__all__ = [
    "DECODER_GRAPHS",
    "DECODE_NAME",
    "GRAPH_NAMES",
    "GROUPS",
    "PROMPTS_NAME",
    "SCHEMA_VERSION",
    "TOKENIZER_NAME",
    "BundleManifest",
    "CacheSpec",
    "FileSpec",
    "GraphSpec",
    "TargetSpec",
    "TensorSpec",
]

SCHEMA_VERSION = 1
TOKENIZER_NAME = "tokenizer.json"
GRAPH_NAMES = ("encoder", "mapper", "decoder")
#: Graphs that a bundle may have besides: the decoder's steps of one token a row, and new prompts.
DECODE_NAME, PROMPTS_NAME = "decode", "prompts"
#: All that compute with the decoder's weights.
DECODER_GRAPHS = ("decoder", DECODE_NAME, PROMPTS_NAME)
#: How many input channels may share a scale of weights in 4 bits.
GROUPS = (32, 64, 128, 256)

#: Keys of the file format that differ from the names of the fields, both ways.
_FILE_KEYS = {"drafting_state": "guesses"}
_FIELDS = {key: name for name, key in _FILE_KEYS.items()}

_MAX_FILES, _MAX_CHUNK = 1024, 4096
_CACHE_TYPES = ("float32", "float16", "bfloat16", "int8")

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True)
class FileSpec:
    """One file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a size that varies has a name instead of a number."""

    name: str
    dtype: str  # NumPy's name: `float32`, `int64`, `uint8`
    shape: tuple[str, ...]  # ("N", "224", "224", "3")


@dataclass(frozen=True)
class GraphSpec:
    """One graph. The decoder's cache tensors are not listed here but described by `CacheSpec`."""

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...] = ()  # files that the graph maps into memory


@dataclass(frozen=True)
class CacheSpec:
    """The decoder's cache: `past_key.N` and `present_key.N` share one buffer, values likewise.

    Each buffer is (slots, kv_heads, positions, head_dim). A call whose longest row brings S tokens
    is padded to `max(S, min_chunk)` columns, and needs `positions >= past + max(S, min_chunk)` for
    every row.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str  # NumPy's name: `float32`, `float16`
    min_chunk: int = 1


@dataclass(frozen=True)
class TargetSpec:
    """The target that the graphs were lowered for."""

    name: str  # name of the recipe: `cpu-int8`
    runtime: str  # backend that runs it: `onnxruntime`
    device: str  # `cpu`, `cuda`
    precision: str  # for people: "int8, one scale per row"
    description: str = ""
    group: int = 0  # of 4-bit weights, as `weight_group`; bundles with groups of 32 may have 0

    def __post_init__(self) -> None:
        _require(self.group in (0, *GROUPS), f"target.group must be one of {GROUPS}.")

    @property
    def weights(self) -> str:
        """Type of the majority of the weights, the first word of `precision`: `int8`, `float16`."""
        return self.precision.split()[0].strip(",;:")

    @property
    def weight_group(self) -> int:
        """Input channels that share a scale of 4-bit weights; 0: no weights have 4 bits."""
        return (self.group or GROUPS[0]) if self.weights == "int4" else 0


@dataclass(frozen=True)
class BundleManifest:
    """All of `bundle.json`."""

    config: CaptionerConfig
    target: TargetSpec
    graphs: Mapping[str, GraphSpec]
    files: Mapping[str, FileSpec]
    cache: CacheSpec
    engines: tuple[EngineSpec, ...] = ()
    drafting_state: str | None = None  # file written by `altogether-rt learn`; its key is `guesses`
    parity: Mapping[str, Any] = field(default_factory=dict)  # measured at export
    provenance: Mapping[str, Any] = field(default_factory=dict)  # checkpoint, tools, date
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require(len(self.files) <= _MAX_FILES, f"files has {len(self.files)} entries.")
        self._check_cache()
        for name in self.files:
            _require(
                _is_plain_name(name), f"files names {name!r:.80}, which is not a plain file name."
            )
        for name in GRAPH_NAMES:
            _require(name in self.graphs, f"its graphs include no {name}.")
        used = {TOKENIZER_NAME}
        for graph in self.graphs.values():
            used |= {graph.file, *graph.weights}
        used |= {engine.file for engine in self.engines}
        if self.drafting_state is not None:
            _require(
                self.drafting_state not in used, "guesses names a file that has another purpose."
            )
            used.add(self.drafting_state)
        unlisted = sorted(used - set(self.files))
        _require(not unlisted, f"{unlisted[0] if unlisted else ''!r} is used but not in files.")
        for name, graph in self.graphs.items():
            agree = self.files[graph.file].sha256 == graph.sha256
            _require(agree, f"graphs.{name} and files give different hashes for {graph.file}.")
        for engine in self.engines:
            agree = self.files[engine.file].sha256 == engine.sha256
            _require(agree, f"engines and files give different hashes for {engine.file}.")

    def _check_cache(self) -> None:
        cache, decoder = self.cache, self.config.decoder
        found = (cache.layers, cache.kv_heads, cache.head_dim)
        wanted = (decoder.layers, decoder.num_kv_heads, decoder.head_dim)
        _require(found == wanted, f"cache has the sizes {found}, and its decoder {wanted}.")
        known = cache.dtype in _CACHE_TYPES
        _require(known, f"cache.dtype must be one of {', '.join(_CACHE_TYPES)}.")
        _require(1 <= cache.min_chunk <= _MAX_CHUNK, "cache.min_chunk is out of range.")

    @property
    def bundle_id(self) -> str:
        """12 hex digits that change with everything that can change a caption, and only then."""
        identity = {
            "config": self.config.to_dict(),
            "target": [self.target.name, self.target.runtime, self.target.device],
            "cache": asdict(self.cache),
            "files": {n: s.sha256 for n, s in self.files.items() if n != self.drafting_state},
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def encoder_id(self) -> str:
        """12 hex digits that change with everything that can change an embedding.

        They are the same for bundles with the same encoder graph, weights and preprocessing.
        """
        graph = self.graphs["encoder"]
        encoder = self.config.to_dict()["encoder"]
        identity = {
            "encoder": encoder,
            "target": [self.target.runtime, self.target.device],
            "files": [self.files[name].sha256 for name in (graph.file, *graph.weights)],
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` of it gives the same manifest."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        plain["config"] = self.config.to_dict()
        if not self.target.group:
            del plain["target"]["group"]  # older versions do not know it
        renamed = {_FILE_KEYS.get(name, name): value for name, value in plain.items()}
        return {"schema": renamed.pop("schema"), **renamed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BundleManifest:
        """Raises ConfigError for an unknown or missing key, or an invalid value."""
        parts = dict(data)
        graphs = {
            name: from_dict(GraphSpec, value, f"graphs.{name:.60}")
            for name, value in _table(parts.pop("graphs", None), "graphs").items()
        }
        files = {
            name: from_dict(FileSpec, value, f"files.{name:.60}")
            for name, value in _table(parts.pop("files", None), "files").items()
        }
        rest = from_dict(_ManifestRest, parts)
        values = {name: getattr(rest, name) for name in rest.__dataclass_fields__}
        fields = {_FIELDS.get(key, key): value for key, value in values.items()}
        return cls(graphs=graphs, files=files, **fields)


@dataclass(frozen=True)
class _ManifestRest:
    """The keys of a manifest that `from_dict` reads without help."""

    schema: int
    config: CaptionerConfig
    target: TargetSpec
    cache: CacheSpec
    engines: tuple[EngineSpec, ...] = ()  # bundles of older versions lack these two keys
    guesses: str | None = None  # `drafting_state`
    parity: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    _require(isinstance(value, Mapping), f"{where} must be a table of keys.")
    return cast("Mapping[str, Any]", value)


def _is_plain_name(name: str) -> bool:
    return 0 < len(name) < 256 and name[0] not in ".-" and set(name) <= _NAME_CHARACTERS
