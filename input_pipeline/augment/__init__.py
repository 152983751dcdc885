"""Random changes of an example in its geometry, visible window and colours, and mixtures of several examples."""
