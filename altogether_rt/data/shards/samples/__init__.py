"""What samples are made of: members by key, texts of all kinds, columns, joined metadata."""
