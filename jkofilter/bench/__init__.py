"""A sweep of many runs: what is to run, where it runs, and the records it leaves."""
