"""Measures a bundle's speed and memory on this machine, relative to the machine's limits."""

__all__: list[str] = []
