"""What models are worth: scores, cost and inference time."""
