"""Judging captions: by references, by alt-texts, by CLIP; each figure with its uncertainty."""
