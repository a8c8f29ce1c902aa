"""Converts published weights to checkpoints: ClipCap, Altogether, Hugging Face decoders."""
