"""``python -m newllm``, which is the command ``newllm``: launchers of several processes start modules."""

import sys

from newllm.cli import main

sys.exit(main())
