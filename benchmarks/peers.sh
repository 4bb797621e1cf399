#!/usr/bin/env bash
# The runtimes, loaders and exporters of others beside which ours are checked and timed, in an environment of their own:
# their packages want other versions than ours do. 6 GB, most of it torch and the CUDA that PyPI's torch brings, which
# nothing here uses; a few minutes.
#
#   benchmarks/peers.sh loaders        # what opens our folders: GenAI and Optimum, for benchmarks/peers.py
#   benchmarks/peers.sh peers builder  # what makes files of its own: GenAI's builder, for benchmarks/onnx_files.py
#   benchmarks/peers.sh peers litert   # TFLite files of others and llama.cpp, for benchmarks/litert.py
#
# Several, as Optimum refuses transformers 5 and the builder works with nothing less. litert-torch imports TensorFlow for
# decoders and does not say so. xllamacpp is llama.cpp built for AVX2: llama-cpp-python comes as source, which a compiler
# turns into one for this very processor, and twelve minutes of two busy cores were not enough for it.
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
