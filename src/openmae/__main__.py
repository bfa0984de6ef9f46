"""`python -m openmae`, so that torchrun can start it."""

import sys

from openmae.rank import begin

begin(sys.argv[1:])  # before what takes long to import: a stop signal may come at any time

from openmae.cli import entry  # noqa: E402

if __name__ == "__main__":
    entry()
