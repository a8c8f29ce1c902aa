"""A small world whose every fact is known: drawing, alt-texts, references, scores."""
