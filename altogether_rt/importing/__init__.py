"""Weights published elsewhere become checkpoints: ClipCap, Altogether, Hugging Face decoders."""
