"""Output of results: caption rows, embeddings, sidecars, contact sheets."""
