"""`python -m kvquilt` is the `kvquilt` command."""

from kvquilt.cli.main import main

main()
