"""Fixtures of tests of shards."""

from tests.data.shards.reading import read
from tests.shards_fixtures import object_store, s3_server

__all__ = ["object_store", "read", "s3_server"]
