"""Annotation in rounds: people re-align alt-texts with their pictures, one round after another."""
