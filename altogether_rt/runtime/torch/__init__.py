"""PyTorch: the reference backend, and checkpoints captioned without an export."""
