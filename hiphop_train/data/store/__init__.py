"""Packed sets: flat arrays in files that are mapped into memory."""
