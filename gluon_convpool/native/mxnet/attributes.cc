#include "attributes.h"

#include <exception>

#include "sentences.h"

namespace convpool {

Attributes::Attributes(const char* op, const StringMap& map,
                       std::initializer_list<const char*> known)
    : op_(op), map_(map) {
  for (const auto& entry : map) {
    if (entry.first.compare(0, 2, "__") == 0) continue;  // MXNet's own marks on a node
    bool found = false;
    for (const char* name : known) found = found || entry.first == name;
    if (!found) fail(std::string(op) + ": unknown attribute " + entry.first);
  }
}

bool Attributes::has(const char* name) const {
  const auto found = map_.find(name);
  return found != map_.end() && found->second != "None" && found->second != "()" &&
         found->second != "[]";
}

std::string Attributes::string(const char* name, const char* otherwise) const {
  return has(name) ? map_.at(name) : otherwise;
}

int64_t Attributes::integer(const char* name, int64_t otherwise) const {
  return has(name) ? parse(name, map_.at(name)) : otherwise;
}

double Attributes::number(const char* name, double otherwise) const {
  if (!has(name)) return otherwise;
  const std::string& value = map_.at(name);
  try {
    size_t used = 0;
    const double number = std::stod(value, &used);
    if (used == value.size() && number == number) return number;
  } catch (const std::exception&) {
  }
  fail(std::string(op_) + ": attribute " + name + "=" + value + " is not a number");
}

bool Attributes::boolean(const char* name, bool otherwise) const {
  if (!has(name)) return otherwise;
  const std::string& value = map_.at(name);
  if (value == "True" || value == "true" || value == "1") return true;
  if (value == "False" || value == "false" || value == "0") return false;
  fail(std::string(op_) + ": attribute " + name + "=" + value + " is neither True nor False");
}

Dims Attributes::tuple(const char* name) const {
  Dims values;
  if (!has(name)) return values;
  std::string item;
  for (const char c : map_.at(name) + ",") {
    if (c == '(' || c == ')' || c == '[' || c == ']' || c == ' ' || c == 'L') continue;
    if (c != ',') {
      item += c;
    } else if (!item.empty()) {
      values.push_back(parse(name, item));
      item.clear();
    }
  }
  return values;
}

int64_t Attributes::parse(const char* name, const std::string& value) const {
  try {
    size_t used = 0;
    const int64_t number = std::stoll(value, &used);
    if (used == value.size()) return number;
  } catch (const std::exception&) {
  }
  fail(std::string(op_) + ": attribute " + name + "=" + value + " is not an integer");
}

}  // namespace convpool
