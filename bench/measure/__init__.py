"""What training and inference really cost, and what happens inside: measured, not asserted."""
