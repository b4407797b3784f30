"""Who may include whom, as data. docs/architecture.md explains the table; the lint holds the tree to it."""

# Area (longest matching folder wins) -> areas it may include besides itself.
MAY_INCLUDE = {
    "base": [],
    "model": ["base"],
    "topology": ["base", "model"],
    "kernels": ["base"],
    "kernels/cpu": ["base", "kernels"],
    "kernels/cuda": ["base", "kernels"],
    "kvcache": ["base"],
    "comm": ["base"],
    "worker": ["base", "model", "kernels", "kvcache", "comm"],
    "coordinator": ["base", "coordinator/text", "coordinator/template"],
    "coordinator/http": ["base"],
    "coordinator/text": ["base", "model"],
    "coordinator/template": ["base"],
    "coordinator/api": ["base", "coordinator", "coordinator/http", "coordinator/text", "coordinator/template"],
    "coordinator/control": ["base", "model", "topology", "kvcache", "comm", "coordinator", "coordinator/http"],
    "coordinator/cli": [
        "base", "model", "topology", "comm", "coordinator", "coordinator/http", "coordinator/text",
        "coordinator/template", "coordinator/api", "coordinator/control",
    ],
}

# Areas of which the coordinator sees a part only.
COORDINATOR_SEES = {
    "comm": ["comm/keys.h", "comm/messages.h", "comm/wire.h"],
    "kvcache": ["kvcache/prefix_hash.h", "kvcache/siphash.h"],
}

# Library -> (pattern of its headers, the one folder that may use it freely or None).
# Without a folder: one source file in the whole tree, and no header. Tests are free.
LIBRARIES = {
    "MPI": (r"mpi\.h", None),
    "NCCL": (r"nccl\.h", None),
    "UCX": (r"uc[pstm]/.*", None),
    "ZeroMQ": (r"zmq.*", None),
    "yaml-cpp": (r"yaml-cpp/.*", None),
    "NVML": (r"nvml\.h", None),
    "cuBLASLt": (r"cublasLt\.h", None),
    "protobuf": (r"google/protobuf/.*|.*\.pb\.h", None),
    "prometheus-cpp": (r"prometheus/.*", None),
    "PCRE2": (r"pcre2\.h", None),
    "ICU": (r"unicode/.*", "coordinator"),
    "nlohmann/json": (r"nlohmann/.*", None),
    "Boost": (r"boost/.*", "coordinator/http"),
    "CUDA": (r"cuda.*\.h|cub/.*|mma\.h", "kernels/cuda"),
    "SIMD intrinsics": (r"\w*mmintrin\.h", "kernels/cpu"),
}

# Folder -> (pattern of system headers it must do without, why).
BANNED_HEADERS = {
    "kvcache": (
        r"thread|mutex|shared_mutex|atomic|condition_variable|future|fstream|iostream|unistd\.h|sys/.*|fcntl\.h",
        "kvcache/ has no threads and no I/O",
    ),
}
