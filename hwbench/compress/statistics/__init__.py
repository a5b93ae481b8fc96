"""What data show of a network, gathered in one streaming pass: moments, Gram matrices, gradients."""
