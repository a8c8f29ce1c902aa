"""Public captioners of patch tokens at their published sizes, with random weights."""
