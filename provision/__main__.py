"""`python -m provision` is `provision`."""

from provision.cli import main

main()
