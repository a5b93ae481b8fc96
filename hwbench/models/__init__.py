"""The zoo: small reference networks written here, which need no download."""
