// The attributes of a node, which MXNet hands over as text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

namespace convpool {

using Dims = std::vector<int64_t>;
using StringMap = std::unordered_map<std::string, std::string>;

// The attributes of one node, as strings that Python wrote.
class Attributes {
 public:
  Attributes(const char* op, const StringMap& map, std::initializer_list<const char*> known);

  bool has(const char* name) const;

  std::string string(const char* name, const char* otherwise) const;
  int64_t integer(const char* name, int64_t otherwise) const;
  double number(const char* name, double otherwise) const;
  bool boolean(const char* name, bool otherwise) const;

  // "(1, 2)", "[1, 2]" or "3"; empty where the attribute is absent.
  Dims tuple(const char* name) const;

 private:
  int64_t parse(const char* name, const std::string& value) const;

  const char* op_;
  const StringMap& map_;
};

// A node's attributes as `Parsed`, which reads them from a map that outlives it. MXNet asks about a
// node some ten times for a call and its gradient, each time with the attributes as text, and to
// parse them takes as long as a small layer: a thread keeps those that it has seen.
template <typename Parsed>
const Parsed& attributes_of(const StringMap& map) {
  struct Node {
    const StringMap map;
    const Parsed parsed;
    explicit Node(const StringMap& from) : map(from), parsed(map) {}
  };
  constexpr size_t kMost = 1024;
  thread_local std::unordered_multimap<size_t, Node> seen;
  const std::hash<std::string> hash;
  size_t key = 0;  // the same in whatever order the attributes come
  for (const auto& one : map) key += hash(one.first) * 31 + hash(one.second) * 17;
  const auto equal = seen.equal_range(key);
  for (auto one = equal.first; one != equal.second; ++one)
    if (one->second.map == map) return one->second.parsed;
  if (seen.size() >= kMost) seen.clear();
  return seen.emplace(key, map)->second.parsed;
}

}  // namespace convpool
