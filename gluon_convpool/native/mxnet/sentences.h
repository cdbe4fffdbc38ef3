// The sentences of errors: texts of messages.h, filled in and thrown.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

namespace convpool {

[[noreturn]] void fail(const std::string& message);

std::string text(int64_t value);

std::string quoted(const std::string& value);

template <typename Values>
std::string tuple_text(const Values& values) {
  std::string out = "(";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i) out += ", ";
    out += std::to_string(values[i]);
  }
  return out + (values.size() == 1 ? ",)" : ")");
}

// Fills {name} in a sentence of messages.h.
std::string sentence(const char* form,
                     std::initializer_list<std::pair<const char*, std::string>> values);

}  // namespace convpool
