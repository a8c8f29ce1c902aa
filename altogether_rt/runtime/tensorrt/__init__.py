"""TensorRT: compiles engines, finds the one for a GPU and runs it."""
