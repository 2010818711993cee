"""Physical checks of labels and data sets."""
