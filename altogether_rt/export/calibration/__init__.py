"""Calibration: values that the torch reference computes on samples, and smoothing by them."""
