"""Where the trials of a sweep run: on workers that are started here or by SLURM; all else is a scheduler's address."""

LOCAL, SLURM = STARTED = ("local", "slurm")
