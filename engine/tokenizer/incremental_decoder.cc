#include "engine/tokenizer/incremental_decoder.h"

#include "engine/base/utf8.h"

namespace slim {

std::string IncrementalDecoder::Add(absl::string_view bytes) {
  std::string all = pending_;
  all.append(bytes.data(), bytes.size());
  pending_.clear();
  std::string out;
  absl::string_view rest = all;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Step::kIncomplete) {
      pending_ = std::string(rest);
      break;
    }
    if (step.kind == Utf8Step::kValid) {
      out.append(rest.data(), step.length);
    } else {
      out += kReplacementCharacter;
    }
    rest.remove_prefix(step.length);
  }
  return out;
}

std::string IncrementalDecoder::Flush() {
  if (pending_.empty()) return "";
  pending_.clear();
  return kReplacementCharacter;
}

std::string SanitizeUtf8(absl::string_view bytes) {
  IncrementalDecoder decoder;
  std::string text = decoder.Add(bytes);
  return text + decoder.Flush();
}

}  // namespace slim
