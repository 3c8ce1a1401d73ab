"""The state of a PyTorch model: named layers, buffers, random masks, batch normalisation."""
