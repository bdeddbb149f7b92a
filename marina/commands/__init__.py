"""The commands, thin: each says what it does, calls the module that does it, and shows the result."""
