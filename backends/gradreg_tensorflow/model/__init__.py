"""The state of a Keras model: named layers, variables, random masks, batch normalisation."""
