"""The exact search for a circuit: an evaluator that updates only what a removal changes, and the walk that uses it."""
