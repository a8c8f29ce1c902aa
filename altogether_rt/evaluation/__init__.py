"""Metrics of captions, with references, alt-texts and images, each with a bootstrap interval."""
