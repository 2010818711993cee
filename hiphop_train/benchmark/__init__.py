"""Time and memory of a potential, alone and in comparison with other programs."""
