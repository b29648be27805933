"""What metrics ask of a model: generated text and log-probabilities."""
