"""The contestants' software, a module for each; imported in its environment alone."""
