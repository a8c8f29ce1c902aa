"""The output of a sharded dataset: a Parquet file for each shard, on a disk or an object store."""
