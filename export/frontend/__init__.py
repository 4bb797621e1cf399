"""The front end of the exporters: any model as a signature, named weights and a function that computes its outputs."""
