"""How much a GPU is given at once where nothing is compiled for sizes: slots, prompts, buffers."""

from __future__ import annotations

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.config import MAX_DRAFT_TOKENS
from altogether_rt.runtime.base import fitting_slots
from altogether_rt.runtime.cuda.memory_plan import CacheLayout
from altogether_rt.runtime.cuda.step_sizes import DecoderProfile, StepSizes

__all__ = ["ONNX_PREFILL_TOKENS", "bundle_slots", "call_limits"]

#: Prompt tokens per step, which fill the products of a large GPU.
ONNX_PREFILL_TOKENS = 8192


def bundle_slots(bundle: Bundle, memory_bytes: int, copied: int = 0) -> int:
    """As many slots as fill the products of a GPU, with half of the memory that weights leave.

    memory_bytes: of the GPU. The other half is for activations and what other programs hold.
    copied: bytes of weights that are on the GPU a second time.
    """
    weights = sum(spec.bytes for spec in bundle.manifest.files.values()) + copied
    slot = CacheLayout(bundle.manifest.cache, 1, bundle.config.slot_positions).nbytes
    slot += 4 * (1 + MAX_DRAFT_TOKENS) * bundle.config.decoder.vocab_size  # its logits
    return fitting_slots(max(0, memory_bytes - weights) // 2, slot)


def call_limits(bundle: Bundle, num_slots: int) -> DecoderProfile:
    """The limits of calls, for which buffers are allocated; the graphs themselves have none."""
    config = bundle.config
    prompt = config.max_chunk_tokens  # the longest prompt and a draft of what follows it
    verify_chunk = 1 + MAX_DRAFT_TOKENS  # the last accepted token and its draft
    verified = num_slots * verify_chunk
    # The prompts of one step have up to ONNX_PREFILL_TOKENS; the last may exceed that.
    tokens = min(ONNX_PREFILL_TOKENS + prompt, num_slots * prompt) + verified
    rows = min(num_slots, -(-tokens // config.max_visual_tokens))
    return DecoderProfile(
        name="all",
        index=0,
        min_sizes=StepSizes(1, bundle.manifest.cache.min_chunk, 1, 1, 1),
        max_sizes=StepSizes(
            rows=num_slots,
            chunk=max(prompt, verify_chunk),
            tokens=-(-(tokens + 1) // 128) * 128,
            visual=rows * config.max_visual_tokens,
            wanted=verified,
        ),
        positions=config.slot_positions,
    )
