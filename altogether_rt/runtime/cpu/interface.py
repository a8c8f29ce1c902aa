"""Whether opened graphs take and give what the bundle's manifest says they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import BundleError, reason

__all__ = ["check_interface", "run_failure"]

_TYPES: Final = {"float32": "float", "float16": "float16", "int8": "int8", "uint8": "uint8"}

_CACHED: Final = ("past_key.", "past_value.")

Shape = tuple[int | None, ...]


def check_interface(bundle: Bundle, sessions: Sequence[Any]) -> None:
    """Raises BundleError if a tensor of encoder, mapper or decoder has another size or type.

    Sizes that a graph leaves open are not compared.
    """
    config, cache = bundle.config, bundle.manifest.cache
    size, width = config.encoder.image_size, config.decoder.token_width
    embeddings: Shape = (None, *config.encoder.embedding_shape)
    past: Shape = (None, cache.kv_heads, None, cache.head_dim)
    names = [f"past_{kind}.{layer}" for layer in range(cache.layers) for kind in ("key", "value")]
    wanted: list[Mapping[str, Shape]] = [
        {"pixels": (None, size, size, 3), "embeddings": embeddings},
        {
            "embeddings": embeddings,
            "visual_tokens": (None, config.mapper.prefix_length, width),
        },
        {
            "visual_tokens": (None, width),
            "logits": (None, config.decoder.vocab_size),
            **dict.fromkeys(names, past),
        },
    ]
    for name, session, shapes in zip(
        ("encoder", "mapper", "decoder"), sessions, wanted, strict=True
    ):
        found = {tensor.name: tensor for tensor in (*session.get_inputs(), *session.get_outputs())}
        held = {tensor for tensor in found if tensor.startswith(_CACHED)}
        if set(shapes) - set(found) or held != {n for n in shapes if n.startswith(_CACHED)}:
            raise _misfit(bundle, name, "has other inputs and outputs")
        for tensor, shape in shapes.items():
            actual = found[tensor].shape
            same = len(actual) == len(shape) and all(
                not isinstance(a, int) or b is None or a == b
                for a, b in zip(actual, shape, strict=False)
            )
            typed = not tensor.startswith(_CACHED) or found[tensor].type == (
                f"tensor({_TYPES.get(cache.dtype, '')})"
            )
            if not same or not typed:
                raise _misfit(bundle, name, f"has {tensor} of {found[tensor].type} {actual}")


def run_failure(error: Exception) -> BundleError:
    """What to raise when onnxruntime fails at a call."""
    return BundleError(
        f"onnxruntime failed at a call of a graph ({reason(error)}): if memory is short, use a "
        "smaller --batch-size, otherwise export the bundle again."
    )


def _misfit(bundle: Bundle, name: str, what: str) -> BundleError:
    return BundleError(
        f"the {name} of {bundle.path} {what:.200}, which is not what its manifest says: export the "
        "bundle again."
    )
