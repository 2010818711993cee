"""From features to atomic energies, level by level."""
