"""The shortest time that this GPU can take, from its measured rates and counted work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from altogether_rt.bench.ceilings import Ceilings
from altogether_rt.bench.cost import Cost
from altogether_rt.bench.roofline import mapper_cost, schedule_cost
from altogether_rt.bench.vision_cost import encoder_cost
from altogether_rt.config import EncoderConfig
from gpu.workload import Workload

__all__ = ["Rates", "floor_s", "whole_costs"]


@dataclass(frozen=True)
class Rates:
    """Measured on this GPU, in the precision of the contestants."""

    operations_per_s: float  # of a large matrix product, a multiply-add is two
    bytes_per_s: float  # read and written by a large copy


def whole_costs(workload: Workload, encoder: EncoderConfig, number_bytes: int) -> list[Cost] | None:
    """Costs of the calls from pixels to captions: encoder, mapper, one prefill, a step per token.

    number_bytes: of a weight and of a cached number. encoder: with its architecture written out.
    None if the encoder's description in open_clip is of a kind that cannot be counted.
    """
    config = workload.config
    vision = encoder_cost(encoder, workload.rows, number_bytes)
    if vision is None:
        return None
    captions = [workload.new_tokens] * workload.rows
    lengths = workload.prompt_lengths
    decoder = schedule_cost(config.decoder, lengths, captions, number_bytes, number_bytes)
    return [vision, mapper_cost(config, workload.rows, number_bytes), *decoder]


def floor_s(costs: Sequence[Cost], rates: Rates) -> float:
    """Lower bound in seconds: each call is bound by its operations or by its bytes, whichever take
    longer."""
    rate = rates.operations_per_s
    ceilings = Ceilings(0, int8_per_s=rate, fp32_per_s=rate, bytes_per_s=rates.bytes_per_s)
    return sum(cost.floor_s(ceilings, int8=False) for cost in costs)
