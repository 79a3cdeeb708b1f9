"""Groups of a sweep's jobs on workers elsewhere: Slurm, Ray. The records are the answer."""
