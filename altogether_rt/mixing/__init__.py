"""Texts for training CLIP and image generators: alt-texts with a share of captions."""
