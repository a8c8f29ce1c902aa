"""How a shard comes from where it lies: in blocks from a store, as a stream from the web."""
