#include "attribute_checks.h"

#include "messages.h"
#include "sentences.h"

namespace convpool {
namespace {

[[noreturn]] void refuse_below(const char* op, const char* name, const std::string& value,
                               int64_t least) {
  fail(sentence(messages::below_minimum,
                {{"op", op}, {"name", name}, {"value", value}, {"minimum", text(least)}}));
}

}  // namespace

void refuse_choice(const char* op, const char* name, const std::string& value,
                   const std::string& allowed) {
  fail(sentence(messages::unknown_choice,
                {{"op", op}, {"name", name}, {"value", value}, {"allowed", allowed}}));
}

void check_least(const char* op, const char* name, int64_t value, int64_t least) {
  if (value < least) refuse_below(op, name, text(value), least);
}

void check_least(const char* op, const char* name, const Dims& values, int64_t least) {
  for (const int64_t value : values)
    if (value < least) refuse_below(op, name, tuple_text(values), least);
}

void check_length(const char* op, const char* name, const Dims& values, size_t ndim) {
  if (values.size() != ndim)
    fail(sentence(messages::tuple_length, {{"op", op},
                                           {"name", name},
                                           {"value", tuple_text(values)},
                                           {"ndim", text(static_cast<int64_t>(ndim))}}));
}

void check_divisible(const char* op, const char* name, int64_t value, int64_t groups) {
  if (value % groups != 0)
    fail(sentence(messages::channels_not_divisible,
                  {{"op", op}, {"groups", text(groups)}, {"name", name}, {"value", text(value)}}));
}

}  // namespace convpool
