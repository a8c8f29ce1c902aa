"""Checkpoint to bundle: one model definition, one lowering a target, parity before anything."""
