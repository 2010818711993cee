"""Errors of a potential on labelled structures, as tables and pictures."""
