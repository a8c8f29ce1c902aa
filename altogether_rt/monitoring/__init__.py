"""What is told of a run while it lasts: progress, log, metrics. Knows nothing of captioning."""
