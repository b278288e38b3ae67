#pragma once
// JSON, read strictly and within limits: what a file says must not cost more than its size.
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace stmixer::graph {

struct Json {
  struct Member;
  using List = std::vector<Json>;
  using Object = std::vector<Member>;  // by key, each of them once

  // Numbers without fraction or exponent are integers, if 64 bits hold them.
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, List, Object> value;

  // The value as a T, or null if it is something else.
  template <class T>
  const T* get() const {
    return std::get_if<T>(&value);
  }

  // A member of an object, or null.
  const Json* find(std::string_view key) const;
};

struct Json::Member {
  std::string key;
  Json value;
};

// The one value that `text` consists of. Beyond the standard it takes NaN and Infinity, which
// Python writes, so that whoever reads the number can say whose it is. Throws
// std::invalid_argument with the place of the error; `what` names the text in it.
Json parse_json(std::string_view text, const std::string& what);

}  // namespace stmixer::graph
