#!/usr/bin/env bash
# The runtimes, loaders and exporters of others beside which ours are checked and timed, in an environment of their own:
# their packages want other versions than ours do. 6 GB, most of it torch and the CUDA that PyPI's torch brings, which
# nothing here uses; a few minutes.
#
#   benchmarks/peers.sh loaders        # what opens our folders: GenAI and Optimum, for benchmarks/peers.py
#   benchmarks/peers.sh peers builder  # what makes files of its own: GenAI's builder, for benchmarks/onnx_files.py
#
# Two, as Optimum refuses transformers 5 and the builder works with nothing less.
set -euo pipefail
folder=${1:?a folder for the environment, and perhaps: builder}
packages=(onnxruntime-genai==0.18.0 onnxruntime==1.32.0 torch==2.14.1)
case ${2:-loaders} in
    loaders) packages+=(optimum==2.1.0 optimum-onnx==0.1.0 transformers==4.57.6 tokenizers==0.22.2) ;;
    builder) packages+=(transformers==5.23.0 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2) ;;
    *) echo "got $2; accepted: builder, or nothing" >&2 && exit 2 ;;
esac
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet "${packages[@]}"
