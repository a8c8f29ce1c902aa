"""One contract, several backends: what runs a bundle's graphs."""

from altogether_rt.runtime.base import Runtime, StepBatch, StepResult
from altogether_rt.runtime.select import open_runtime

__all__ = ["Runtime", "StepBatch", "StepResult", "open_runtime"]
