"""Examples in, batches of fixed shape out. Nothing here imports a model, and nothing here runs on an accelerator."""
