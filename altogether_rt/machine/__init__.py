"""This machine: its processor, its GPUs, the packages installed."""
