"""Compare shapes: dense correspondence between two surfaces, and its evaluation."""
