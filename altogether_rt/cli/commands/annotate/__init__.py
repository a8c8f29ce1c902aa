"""`altogether-rt annotate`: the rounds on a page, and what goes in and out as files."""
