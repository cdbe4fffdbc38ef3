// What the attributes of several operators must be. Each check throws the sentence that names the
// operator, the attribute, its value and what is allowed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "attributes.h"

namespace convpool {

// For a value that is none of those that are allowed; both as the sentence shows them.
[[noreturn]] void refuse_choice(const char* op, const char* name, const std::string& value,
                                const std::string& allowed);

void check_least(const char* op, const char* name, int64_t value, int64_t least);
void check_least(const char* op, const char* name, const Dims& values, int64_t least);

// One value for each spatial axis.
void check_length(const char* op, const char* name, const Dims& values, size_t ndim);

void check_divisible(const char* op, const char* name, int64_t value, int64_t groups);

}  // namespace convpool
