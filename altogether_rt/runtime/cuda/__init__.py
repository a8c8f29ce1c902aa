"""Decoder, encoder and mapper on an NVIDIA GPU, whatever executes the graphs."""
