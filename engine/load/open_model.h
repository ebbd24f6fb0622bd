// Opens a model on disk, whatever its format. A pure function; safe from any thread.
#ifndef ENGINE_LOAD_OPEN_MODEL_H_
#define ENGINE_LOAD_OPEN_MODEL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/load/tensor_source.h"

namespace slim {

// `path` names a GGUF file. UNIMPLEMENTED for a directory (Hugging Face layout) or a safetensors
// file; otherwise the errors of GgufReader::Open. Every message names the path.
absl::StatusOr<std::unique_ptr<TensorSource>> OpenModel(const std::string& path);

}  // namespace slim

#endif  // ENGINE_LOAD_OPEN_MODEL_H_
