"""What a run folder tells, as a page for people: one HTML file that needs nothing else."""
