"""Training losses, and the classification heads that own class centres."""
