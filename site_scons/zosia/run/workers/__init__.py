"""Workers: machines that compute a part of another one's model, and the wires to them."""
