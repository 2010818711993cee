"""Neighbour search, segment sums and the assembly of graphs."""
