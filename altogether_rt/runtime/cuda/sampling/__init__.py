"""Drawing tokens without bringing their logits to the host."""
