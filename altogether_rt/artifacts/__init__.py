"""Files that the project writes and reads back: bundles, manifests, checkpoints."""
