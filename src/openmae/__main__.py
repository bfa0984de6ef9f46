"""`python -m openmae`, so that torchrun can start it."""

from openmae.cli import entry

if __name__ == "__main__":
    entry()
