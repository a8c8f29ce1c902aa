"""TensorRT: compiling engines, finding the one that fits a GPU, and running it."""
