"""What a layer costs: operations and bytes, and the roofline they are held against."""
