"""Captioning datasets in shards: what it costs, what is lost if something dies, and its scale."""
