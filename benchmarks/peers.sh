#!/usr/bin/env bash
# The runtimes and loaders of others that open what we write, in an environment of their own: their packages want
# other versions than ours do. 6 GB, most of it torch and the CUDA that PyPI's torch brings, which nothing here uses.
#
#   benchmarks/peers.sh /tmp/peers                                   # makes /tmp/peers, a few minutes
#   python benchmarks/peers.py --peers-python /tmp/peers/bin/python  # from our own environment, a minute
set -euo pipefail
folder=${1:?a folder for the environment}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet \
    onnxruntime-genai==0.18.0 \
    onnxruntime==1.32.0 \
    optimum==2.1.0 \
    "optimum-onnx[onnxruntime]==0.1.0" \
    transformers==4.57.6 \
    tokenizers==0.22.2 \
    torch==2.14.1
"$folder/bin/python" -c "import onnxruntime_genai, optimum.onnxruntime"
