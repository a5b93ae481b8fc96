"""The probe pack: anchors that are run on a device without hwbench, and what is made of what they took."""
