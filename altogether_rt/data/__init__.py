"""Input and output: images, alt-texts, sources, rows, sinks. Nothing here needs a runtime."""
