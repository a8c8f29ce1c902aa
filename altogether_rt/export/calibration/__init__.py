"""What the reference computes on samples, and the smoothing that rests on it."""
