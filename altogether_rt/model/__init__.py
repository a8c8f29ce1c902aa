"""The captioner in PyTorch: encoder, mapper, and decoder with an explicit cache. The reference."""
