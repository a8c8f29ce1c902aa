"""Runs a bundle's graphs: one contract (`base`) and several backends."""
