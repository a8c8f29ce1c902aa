"""PyTorch: the reference backend, which also captions with checkpoints without an export."""
