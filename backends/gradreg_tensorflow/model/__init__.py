"""What a Keras model has besides its function: named layers, variables, random masks, batch normalisation."""
