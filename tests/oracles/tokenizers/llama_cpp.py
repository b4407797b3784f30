"""llama.cpp's token ids, as skein_tokenize gives ours: JSON strings in, one a line; lists of ids out.

    PYTHONPATH=PACKAGES llama_cpp.py MODEL_GGUF     (PACKAGES holds cyllama, llama.cpp built in)

A process of its own, for it aborts where it does not like a file.
"""

import json
import sys

from cyllama.llama import llama_cpp


def main(path):
    parameters = llama_cpp.LlamaModelParams()
    parameters.n_gpu_layers = 0
    model = llama_cpp.LlamaModel(path, parameters)
    vocabulary = model.get_vocab()
    for line in sys.stdin:
        ids = vocabulary.tokenize(json.loads(line), add_special=False, parse_special=True)
        sys.stdout.write(json.dumps(list(ids)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
