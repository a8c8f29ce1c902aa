"""Attention over the cache's slots on a GPU, written in Triton, and the same in plain PyTorch."""
