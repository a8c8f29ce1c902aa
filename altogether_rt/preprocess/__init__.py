"""Image to pixels and text to token ids: the one implementation for training and inference."""
