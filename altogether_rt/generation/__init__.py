"""Continuous batching, sampling and requests: pure logic that knows no backend."""
