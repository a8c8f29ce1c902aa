"""Texts for the training of CLIP and of image generators: alt-texts and a share of captions."""
