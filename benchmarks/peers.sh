#!/usr/bin/env bash
# Creates an environment with the third-party runtimes and exporters that the benchmarks compare with. They need other
# versions of packages than attention_zoo does. An environment takes up to 6 GB, mostly for torch and the CUDA packages
# that PyPI's torch depends on, which are not used here, and a few minutes.
#
#   benchmarks/peers.sh loaders        # ONNX Runtime GenAI and Optimum, for benchmarks/peers.py
#   benchmarks/peers.sh peers builder  # the model builder of ONNX Runtime GenAI, for benchmarks/onnx_files.py
#   benchmarks/peers.sh peers litert   # litert-torch and llama.cpp, for benchmarks/litert.py
#
# There are several environments because Optimum does not support transformers 5, which the builder requires.
# litert-torch imports TensorFlow for decoders without declaring the dependency. xllamacpp is llama.cpp built for AVX2.
# llama-cpp-python is distributed as source and would be compiled for the processor of this machine, but its compilation
# did not finish within twelve minutes on two busy cores.
set -euo pipefail
folder=${1:?a folder for the environment, and perhaps: builder, litert}
onnx=(onnxruntime-genai==0.18.0 onnxruntime==1.32.0 torch==2.14.1)
case ${2:-loaders} in
    loaders) packages=("${onnx[@]}" optimum==2.1.0 optimum-onnx==0.1.0 transformers==4.57.6 tokenizers==0.22.2) ;;
    builder) packages=("${onnx[@]}" transformers==5.23.0 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2) ;;
    litert)
        packages=(litert-torch==0.10.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 torch==2.13.0 transformers==5.23.0)
        packages+=(tensorflow-cpu==2.21.0 xllamacpp==2026.10.11549 gguf==0.19.0)
        ;;
    *) echo "got $2; accepted: builder, litert, or nothing" >&2 && exit 2 ;;
esac
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet "${packages[@]}"
