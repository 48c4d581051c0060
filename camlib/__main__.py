"""`python -m camlib`: the command line, where the command `camlib` is not on the path."""

from camlib.cli import main

main(prog_name="camlib")
