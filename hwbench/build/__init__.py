"""From a network and a plan to a bundle: the plan read and held against the layers, and one engine built."""
