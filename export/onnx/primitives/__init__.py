"""The primitives of the layers in ONNX operators: one module for each kind, and a table of their forms by opset."""
