"""Compare an exported file with the Keras model it was made from."""
