"""Checks of the sources: who includes whom, constructs that have no place here, sizes."""

import io
import re

from pyflakes import api, reporter

# Who may include whom, of our own headers; the first entry whose folder holds the file counts.
OURS = [
    ("engine/base/", ("engine/base/",)),
    ("engine/tensor/", ("engine/base/", "engine/tensor/")),
    ("engine/load/", ("engine/base/", "engine/tensor/", "engine/load/")),
    ("engine/tokenizer/", ("engine/base/", "engine/tensor/", "engine/load/", "engine/tokenizer/")),
    ("engine/sample/", ("engine/base/", "engine/sample/")),
    ("engine/backend/", ("engine/base/", "engine/tensor/", "engine/backend/", "kvcache/")),
    ("engine/", ("engine/", "kvcache/")),
    ("kvcache/", ("engine/base/", "kvcache/")),
    ("server/", ("engine/", "kvcache/", "server/")),
    ("tools/", ("engine/", "kvcache/", "tools/")),
]
OUR_FOLDERS = ("engine/", "kvcache/", "server/", "tools/", "tests/")

# Libraries that stay in named files. A pattern of includes -> patterns of files that may have it.
LIBRARIES = [
    (r"grpc(pp)?/|grpc_health\.|sliminfer/v1/.*\.grpc\.pb\.h",
     r"server/(main\.cc|grpc_server\.|rpc\.|(control|generation)_service\.)|tools/(client|bench)/"),
    (r"sliminfer/v1/|google/protobuf/",
     r"server/(main\.cc|rpc\.|(control|generation)_service\.|generate_session\.|proto_events\."
     r"|prompt_codec\.|pruning_options\.|request_validator\.)|tools/(client|bench)/"),
    (r"prometheus/", r"server/metrics\.cc"),
    (r"civetweb\.h|CivetServer\.h", r"server/http_endpoint\.cc"),
    (r"CLI/", r"server/config\.cc|tools/"),
    (r"cuda|cublas", r"engine/backend/cuda/|kvcache/block_copier_cuda\.cc"),
    # Concrete classes: only those who build the objects name them.
    (r"engine/backend/cpu/",
     r"engine/backend/(cpu/|create_backend\.)|tools/common/(local_engine|machine_probe)\.cc"),
    (r"engine/llama_engine\.h", r"engine/"),
]

FORBIDDEN = [
    (r"std::regex|#include <regex>", "std::regex overflows the stack on long input"),
    (r"\bsleep_for\b|\bsleep_until\b|\busleep\(|\bnanosleep\(", "waiting is by condition"),
    (r"march=native|mtune=native", "instruction sets are chosen when the program starts"),
    (r"#pragma once", "header guards"),
    (r"\bDISABLED_", "a disabled test"),
    (r"GTEST_SKIP\(\);", "a skip without a reason"),
    (r"\bTODO\b|\bFIXME\b", "open ends"),
    (r"^\s*throw\s+(?!CLI::)", "we never throw"),
]

MAX_LINES = 600  # an error; the habit is 400


def check_text(name, text):
    """Problems of one file; `name` is its path from the root."""
    problems = []
    includes = re.findall(r'^#include ["<]([^">]+)[">]', text, re.M)
    for folder, allowed in OURS:
        if name.startswith(folder):
            problems += [f"{name}: may not include {i}" for i in includes
                         if i.startswith(OUR_FOLDERS) and not i.startswith(allowed)]
            break
    if name.startswith(("engine/", "kvcache/", "server/", "tools/")):
        for library, places in LIBRARIES:
            if not re.match(places, name):
                problems += [f"{name}: {i} belongs in {places}" for i in includes
                             if re.match(library, i)]
    for pattern, why in FORBIDDEN:
        found = re.search(pattern, text, re.M)
        if found:
            problems.append(f"{name}: {found.group(0).strip()}: {why}")
    lines = text.count("\n")
    if lines > MAX_LINES:
        problems.append(f"{name}: {lines} lines, at most {MAX_LINES}")
    return problems


def check_python(name, text):
    """Names that are not defined, or not used: an interpreter finds them only where it runs."""
    found = io.StringIO()
    api.check(text, name, reporter.Reporter(found, found))
    return found.getvalue().splitlines()


def check(root):
    problems = []
    for folder in ("deploy", "engine", "kvcache", "server", "tools", "tests"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cc", ".cu", ".cuh") and path.is_file():
                problems += check_text(str(path.relative_to(root)), path.read_text())
        for path in sorted((root / folder).rglob("*.py")):
            problems += check_python(str(path.relative_to(root)), path.read_text())
    for path in [*root.glob("CMake*"), *root.rglob("CMakeLists.txt")]:
        if not path.relative_to(root).parts[0].startswith(("build", ".")):
            text = path.read_text()
            problems += [f"{path.relative_to(root)}: {word}" for word in ("march=native", "mtune=native")
                         if word in text]
    return problems
