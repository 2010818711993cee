"""From features to energies of the sites, level by level."""
