"""`altogether-rt caption`: of a folder of images, or of a dataset in shards."""
