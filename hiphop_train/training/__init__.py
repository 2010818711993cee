"""Losses, metrics, the Lightning module and the run."""
