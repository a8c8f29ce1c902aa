"""Commands of datasets in shards, besides `caption`."""
