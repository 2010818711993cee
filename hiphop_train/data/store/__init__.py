"""Packed sets: flat arrays in memory-mapped files."""
