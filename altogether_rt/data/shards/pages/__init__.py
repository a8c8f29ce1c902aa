"""Large pages of Parquet files, read a value at a time."""
