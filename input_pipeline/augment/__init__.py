"""Random changes of an example: where its points go, what of it is seen, several as one, and its colours."""
