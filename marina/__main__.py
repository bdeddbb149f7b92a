"""`python -m marina` is `marina`."""

from marina.cli import main

main()
