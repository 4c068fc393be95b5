"""How the processors share a training step: branches of the graph, not pieces of operations.

An operation that is split over threads ends with its slowest piece, and a step has thousands of
operations. Branches that don't depend on each other wait for nobody. Standard library only: it must
come before TensorFlow starts its threads.
"""

import os

VARIABLE = "TF_NUM_INTRAOP_THREADS"
BRANCHES = 2  # of a step: a constant, for dropout's draws follow from it


def prefer_branches() -> int:
    """Gives one operation a share of the processors, where nobody has chosen yet.

    Returns:
      The threads of one operation.
    """
    share = max(1, len(os.sched_getaffinity(0)) // BRANCHES)
    return int(os.environ.setdefault(VARIABLE, str(share)))
