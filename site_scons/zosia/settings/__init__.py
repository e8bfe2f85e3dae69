"""What the user can set, and the machines that follow from it."""
