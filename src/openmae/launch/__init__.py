"""`--gpus N`: start N ranks of the same command on this machine, pass signals on, start them again
after a fault, and answer as one process would. Imports no torch.
"""

from openmae.launch.plan import ranks_to_start
from openmae.launch.ranks import launch

__all__ = ["launch", "ranks_to_start"]
