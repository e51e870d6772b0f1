"""What runs cost, and what their machines did meanwhile."""
