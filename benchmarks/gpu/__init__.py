"""The comparison on a GPU: `benchmarks/gpu_suite.py` starts it."""
