"""hiphop-train, as ``python -m hiphop_train.cli``."""

from hiphop_train.cli import train_main

train_main()
