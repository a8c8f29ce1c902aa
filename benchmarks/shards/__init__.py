"""Captioning datasets in shards: what it costs, what is lost when something dies, and at what scale."""
