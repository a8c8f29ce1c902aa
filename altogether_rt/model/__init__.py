"""The captioner in torch: encoder, mapper, decoder with explicit cache. The reference semantics."""
