"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["STAGE_SECONDS", "EngineStats"]

#: Fields of `EngineStats` that hold the seconds of a stage.
STAGE_SECONDS = ("decode_wait_s", "encode_s", "map_s", "decoder_s")


@dataclass
class EngineStats:
    """Counts of an engine, or of several that share them."""

    num_steps: int = 0
    num_verify_steps: int = 0  # steps with draft tokens to verify
    num_prefill_tokens: int = 0  # read by the decoder: prompts
    num_decode_tokens: int = 0  # read by the decoder: written by the step before
    num_drafted_tokens: int = 0  # read by the decoder: draft tokens to verify
    num_accepted_tokens: int = 0  # draft tokens that were accepted
    num_written_tokens: int = 0  # chosen for captions, EOS included
    num_first_tokens: int = 0  # of these, chosen in the step that reads the prompt
    #: Read by the decoder for nothing, and counted nowhere else: a step was begun before it was
    #: known that a row had ended, or that its token is drawn on the host.
    num_dropped_tokens: int = 0
    # Seconds by stage. The first three are counted by whatever feeds the engine; the last is time
    # in calls of the decoder: where steps are begun ahead, that of beginning and of waiting.
    decode_wait_s: float = 0.0  # nothing to generate: no image was decoded yet
    encode_s: float = 0.0
    map_s: float = 0.0
    decoder_s: float = 0.0

    def add(self, other: EngineStats) -> None:
        """Add the counts of another engine."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def clear(self) -> None:
        """Count from zero again."""
        for field in fields(self):
            setattr(self, field.name, field.default)

    @property
    def acceptance(self) -> float | None:
        """Fraction of the draft tokens that were accepted; None if there were none."""
        if not self.num_drafted_tokens:
            return None
        return self.num_accepted_tokens / self.num_drafted_tokens

    @property
    def tokens_per_decode(self) -> float | None:
        """Tokens that a sequence gains per step after its prefill: 1 without speculation."""
        if not self.num_decode_tokens:
            return None
        return (self.num_written_tokens - self.num_first_tokens) / self.num_decode_tokens
