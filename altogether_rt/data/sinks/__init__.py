"""Where results go: caption rows, embeddings, sidecars, contact sheets."""
