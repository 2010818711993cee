"""Files that engines load without this package."""
