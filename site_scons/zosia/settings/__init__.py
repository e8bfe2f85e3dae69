"""Variables that the user sets, and the machines that follow from them."""
