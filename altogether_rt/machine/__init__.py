"""What this machine has: processor, GPUs, packages."""
