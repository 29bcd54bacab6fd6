"""The command line.

Every module of a command imports at its top only what `--help` needs: Typer, Rich and light modules of this package.
A command imports the rest inside its function, so that `--help` and `--version` answer at once.
"""
