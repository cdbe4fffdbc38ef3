#include "sentences.h"

#include <stdexcept>

namespace convpool {

void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t value) { return std::to_string(value); }

std::string quoted(const std::string& value) { return "'" + value + "'"; }

std::string sentence(const char* form,
                     std::initializer_list<std::pair<const char*, std::string>> values) {
  std::string out;
  for (const char* p = form; *p;) {
    if (*p != '{') {
      out += *p++;
      continue;
    }
    const std::string rest(p + 1);
    const size_t end = rest.find('}');
    const std::string name = rest.substr(0, end);
    for (const auto& value : values)
      if (name == value.first) out += value.second;
    p += end + 2;
  }
  return out;
}

}  // namespace convpool
