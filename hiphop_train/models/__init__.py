"""One file per architecture, readable as the paper's mathematics."""
