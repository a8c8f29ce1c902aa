"""Pages of our own on loopback: a small server, pictures of a known table, append-only answers."""
