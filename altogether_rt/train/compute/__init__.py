"""What training computes with: device, threads, and the embeddings that it keeps."""
