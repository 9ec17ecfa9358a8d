"""Entry of the spawner, run by path so that it needs neither site-packages nor an environment."""

import os
import sys

# -I and -S leave only the standard library on the path; the project is found beside this file.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from jobruntime.keeper.spawner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
