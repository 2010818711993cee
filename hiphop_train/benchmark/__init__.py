"""Time and memory of a potential, by itself and beside other programs."""
