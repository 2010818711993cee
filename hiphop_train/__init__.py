"""Train, judge and ship neural-network interatomic potentials."""

__version__ = "0.1.0"
