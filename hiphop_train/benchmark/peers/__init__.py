"""What is timed: one file for each program, run by `worker` in a process of its own."""
