"""Import of models trained by other programs."""
