"""Synthetic scenes of which every fact is known: drawing, alt-texts, references, scores."""
