"""Training: the two stages of the paper, and the starter's encoder before them."""
