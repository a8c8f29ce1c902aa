"""Datasets in shards: WebDataset tars, Parquet files, on a disk or an object store."""
