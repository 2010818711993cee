"""One file per architecture, which reads like the equations of the paper."""
