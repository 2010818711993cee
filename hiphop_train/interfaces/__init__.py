"""Engines that use an exported potential."""
