"""Captioning many images: samples in, rows out, resumable."""
