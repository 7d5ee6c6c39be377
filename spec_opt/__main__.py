"""`python -m spec_opt` is `spec-opt`."""

import sys

from spec_opt.cli import main

sys.exit(main())
