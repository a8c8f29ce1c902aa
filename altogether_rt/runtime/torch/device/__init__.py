"""The torch captioner on a GPU: packed weights, kernels, streams, arrays that stay there."""
