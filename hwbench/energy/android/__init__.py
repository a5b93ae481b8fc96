"""What Android phones tell of power and heat, from text to channels. How the text comes from a phone is not here."""
