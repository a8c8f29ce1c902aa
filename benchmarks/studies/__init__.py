"""The parts of `benchmarks/mixing.py` and `benchmarks/rounds.py`."""
