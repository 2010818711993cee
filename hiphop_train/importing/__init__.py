"""Models that other programs trained, in this project's terms."""
