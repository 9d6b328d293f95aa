"""Where the arithmetic runs, on how many processes, and the clock."""
