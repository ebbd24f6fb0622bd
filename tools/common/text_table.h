// A table of right-aligned columns for a terminal. Not thread-safe.
#ifndef TOOLS_COMMON_TEXT_TABLE_H_
#define TOOLS_COMMON_TEXT_TABLE_H_

#include <string>
#include <vector>

namespace slim {

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header);
  // As many cells as the header has.
  void AddRow(std::vector<std::string> cells);
  // Header and rows, one line each.
  std::string Render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// A number with `digits` digits after the point; "-" when it is not finite.
std::string Number(double value, int digits);
// 12345678 -> "12,345,678".
std::string Grouped(int64_t value);

}  // namespace slim

#endif  // TOOLS_COMMON_TEXT_TABLE_H_
