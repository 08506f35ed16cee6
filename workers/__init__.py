"""The numerical code that runs on the cluster. Knows no jobs and no HTTP."""
