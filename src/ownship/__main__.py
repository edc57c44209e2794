import sys

from ownship.cli import main

sys.exit(main())
