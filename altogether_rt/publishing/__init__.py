"""Captions of a sharded run in the layouts that training code reads."""
