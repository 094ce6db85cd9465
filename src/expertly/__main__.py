"""`python -m expertly` is `expertly`."""

import sys

from expertly.cli import main

sys.exit(main())
