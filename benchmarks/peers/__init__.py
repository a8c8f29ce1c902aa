"""The comparison on a CPU: `run.py` starts it."""
