"""Every line of this script that ends in a comment has an error that pyright finds. It is not run."""

import attention_zoo as az
from attention_zoo import export, layers

bert = az.create("bert-base", num_layers=1)
gpt = az.create("gpt", num_layers=1)
result = export.to_onnx(bert, "bert.onnx")
report = export.verify(bert, result.path)
runner = export.load("bert.onnx")

az.create("gpt", num_layer=4)  # no family has this field
az.create("gpt", num_layers="4")  # a string for an integer
az.create("bert-base", dropout=None)  # this field is not optional
az.create(num_layers=4)  # no name
az.creat("gpt")  # no such function
az.load("folder", num_class=3)  # no family has this field
az.load("folder", num_classes="3")  # a string for an integer
az.load()  # no path
az.list_models(3)  # not a pattern
export.to_tfite(bert, "bert.tflite")  # no such function
export.to_onnx(bert, "bert.onnx", precision=8)  # neither a name nor a Precision
export.to_onnx(bert, "bert.onnx", precison="int8")  # no such argument
export.to_onnx(bert)  # no path
export.to_onnx(bert, "bert.onnx", cache="yes")  # a string for a bool
export.to_tflite(bert, "bert.tflite", batch_size="1")  # a string for an integer
export.to_genai(gpt)  # no folder
export.verify(bert)  # no path
export.verify(bert, "bert.onnx", tolerance="small")  # a string for a number
export.load("bert.onnx", threads="2")  # a string for an integer
export.Precision("int8", block_size="32")  # a string for an integer
gpt.generate([[1]], max_new_token=3)  # no such option
gpt.generate([[1]], temperature="hot")  # a string for a number
gpt.generate_text("Once", top_k=1.5)  # a float for an integer
runner.generate([[1]], num_beam=2)  # no such option
runner.run()  # no inputs
runner.runs({"input_ids": [[1]]})  # no such method
print(result.pth, report.passes)  # no such attributes
layers.MultiHeadAttention(num_head=4)  # no `num_heads`
layers.MultiHeadAttentions(4)  # no such layer
