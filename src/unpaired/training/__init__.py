"""Training: settings, the one loop, its state, log and checks."""
