"""Training and unlearning: data, losses, the trainer, precisions, several GPUs, and what a run leaves."""
