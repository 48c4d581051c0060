"""`python -m camlib.cli`, for where the command is not on the path."""

from camlib.cli import main

main(prog_name="camlib")
