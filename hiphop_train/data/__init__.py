"""From files to batches: readers, label checks, splits, loaders."""
