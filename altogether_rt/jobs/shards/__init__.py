"""Captioning datasets in shards: a shard is captioned by one process, whichever it is."""
