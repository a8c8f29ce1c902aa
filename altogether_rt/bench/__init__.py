"""Speed and memory of a bundle on this machine, and how near they come to what it can do."""

__all__: list[str] = []
