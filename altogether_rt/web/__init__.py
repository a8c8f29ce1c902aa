"""A small web server for pages on this machine: sites, images, append-only answer files."""
