"""What can be chosen for a network, what the choices cost and lose together, and the solver that chooses."""
