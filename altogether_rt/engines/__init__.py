"""Engines: graphs compiled for one kind of GPU. Needs neither torch nor onnx."""
