"""Shards captioned on the machines of a cluster, which Ray gives to workers."""
