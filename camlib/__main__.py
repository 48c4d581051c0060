"""`python -m camlib`: the command line, for where `camlib` is not on the path."""

from camlib.cli import main

main(prog_name="camlib")
