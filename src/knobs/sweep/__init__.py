"""Many runs: read, compared and trained together."""
