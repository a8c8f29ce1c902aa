"""Pages of our own on loopback: a small server, images of a known table, append-only answers."""
