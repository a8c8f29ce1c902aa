"""Annotation in rounds: people re-align alt-texts with their images, one round after another."""
