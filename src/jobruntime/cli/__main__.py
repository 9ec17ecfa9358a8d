"""`python -m jobruntime.cli`: the same as `jobc`."""

from .main import main

main()
