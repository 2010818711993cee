"""An optimizer whose state the processes of a training divide among them.

Each process keeps the moments of its share of the parameters, makes their step, and sends the result to the others
(Rajbhandari et al., arXiv 1910.02054, stage 1). Steps and checkpoints are those of the undivided optimizer, so a
training can go on with or without, and with another number of processes.
"""

import inspect

from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer


def sharded(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer like a given one that has made no step, divided over all processes, which must have met."""
    kind = type(optimizer)
    known = inspect.signature(kind).parameters
    settings = {key: value for key, value in optimizer.defaults.items() if key in known}
    groups = [
        {key: value for key, value in group.items() if key in ("params", *settings)} for group in optimizer.param_groups
    ]
    divided: Optimizer = ZeroRedundancyOptimizer(groups, optimizer_class=kind, **settings)
    return divided
