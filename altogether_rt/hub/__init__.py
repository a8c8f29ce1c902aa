"""Captioners by name: the catalogue, the hub, and what of it is on this machine."""
