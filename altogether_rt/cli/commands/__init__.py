"""One module per command; `cli.registry` is the table of them."""
