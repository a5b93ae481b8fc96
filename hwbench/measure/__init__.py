"""The one measuring loop, its stop rules, the host it runs on, and the verdict on the result."""
