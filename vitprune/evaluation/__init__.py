"""What models are worth: accuracy, cost and time."""
