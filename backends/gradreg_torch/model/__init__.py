"""What a PyTorch model has besides its function: named layers, buffers, random masks, batch normalisation."""
