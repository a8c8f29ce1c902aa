"""Captions of two or more systems side by side: a blind study, its page and its report."""
