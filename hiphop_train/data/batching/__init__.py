"""From structures to batches with their pairs."""
