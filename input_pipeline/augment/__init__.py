"""Random changes of an example: geometry, visible window, mixtures of several examples, and colours."""
