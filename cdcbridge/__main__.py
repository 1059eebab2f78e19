"""`python -m cdcbridge` is the command `cdcbridge`."""

from cdcbridge.cli import main

main(prog_name="cdcbridge")
