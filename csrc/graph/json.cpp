#include "graph/json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace stmixer::graph {
namespace {

constexpr int kMaxDepth = 32;
constexpr int kMaxValues = 1 << 20;  // networks have thousands

// Bytes of the UTF-8 character at the beginning of `text`, or 0 if there is none.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  uint32_t code = first & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code < kSmallest[length] || code > 0x10FFFF || surrogate ? 0 : length;
}

void append_utf8(std::string* to, uint32_t code) {
  if (code < 0x80) {
    *to += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  *to += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | code >> (6 * more));
  for (int i = more - 1; i >= 0; --i) *to += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
}

class Reader {
 public:
  Reader(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  Json document() {
    Json json = value(0);
    skip_space();
    if (at_ != text_.size()) fail("something follows the value");
    return json;
  }

 private:
  [[noreturn]] void fail(const char* why) const {
    throw std::invalid_argument(what_ + " is no valid JSON: " + why + " at byte " +
                                std::to_string(at_));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(std::string_view token) {
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(peek()) != std::string_view::npos)
      ++at_;
  }

  Json value(int depth) {
    if (depth > kMaxDepth) fail("it nests too deeply");
    if (++values_ > kMaxValues) fail("it has too many values");
    skip_space();
    if (take("{")) return {object(depth)};
    if (take("[")) return {list(depth)};
    if (take("\"")) return {string()};
    if (take("true")) return {true};
    if (take("false")) return {false};
    if (take("null")) return {nullptr};
    if (take("NaN")) return {std::numeric_limits<double>::quiet_NaN()};
    if (take("Infinity")) return {std::numeric_limits<double>::infinity()};
    if (take("-Infinity")) return {-std::numeric_limits<double>::infinity()};
    return number();
  }

  Json::List list(int depth) {
    Json::List items;
    skip_space();
    if (take("]")) return items;
    do {
      items.push_back(value(depth + 1));
      skip_space();
    } while (take(","));
    if (!take("]")) fail("expected ',' or ']'");
    return items;
  }

  Json::Object object(int depth) {
    Json::Object members;
    skip_space();
    if (take("}")) return members;
    do {
      skip_space();
      if (!take("\"")) fail("expected a key");
      std::string key = string();
      skip_space();
      if (!take(":")) fail("expected ':'");
      members.push_back({std::move(key), value(depth + 1)});
      skip_space();
    } while (take(","));
    if (!take("}")) fail("expected ',' or '}'");
    std::sort(members.begin(), members.end(),
              [](const Json::Member& a, const Json::Member& b) { return a.key < b.key; });
    const auto twice = std::adjacent_find(
        members.begin(), members.end(),
        [](const Json::Member& a, const Json::Member& b) { return a.key == b.key; });
    if (twice != members.end()) fail("an object has a key twice, and ends");
    return members;
  }

  // What follows the opening quote.
  std::string string() {
    std::string result;
    while (!take("\"")) {
      if (at_ == text_.size()) fail("a string does not end");
      if (take("\\")) {
        append_utf8(&result, escaped());
        continue;
      }
      if (static_cast<unsigned char>(peek()) < 0x20) fail("a control character");
      const size_t length = utf8_length(text_.substr(at_));
      if (length == 0) fail("a string is no UTF-8");
      result += text_.substr(at_, length);
      at_ += length;
    }
    return result;
  }

  uint32_t escaped() {
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (take("u")) {
      const uint32_t first = hexadecimal();
      if (first < 0xD800 || first >= 0xE000) return first;
      const uint32_t second = first < 0xDC00 && take("\\u") ? hexadecimal() : 0;
      if (second < 0xDC00 || second >= 0xE000) fail("half a surrogate pair");
      return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }
    const size_t found = at_ < text_.size() ? kNames.find(peek()) : std::string_view::npos;
    if (found == std::string_view::npos) fail("an unknown escape");
    ++at_;
    return static_cast<unsigned char>(kMeanings[found]);
  }

  uint32_t hexadecimal() {
    uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (error != std::errc() || end != digits.data() + 4) fail("expected four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void digits() {
    const size_t begin = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == begin) fail("expected a value");
  }

  Json number() {
    const size_t begin = at_;
    bool whole = true;
    take("-");
    if (!take("0")) digits();
    if (take(".")) {
      whole = false;
      digits();
    }
    if (take("e") || take("E")) {
      whole = false;
      take("+") || take("-");
      digits();
    }
    const std::string text(text_.substr(begin, at_ - begin));
    int64_t integer = 0;
    if (whole && std::from_chars(text.data(), text.data() + text.size(), integer).ec == std::errc())
      return {integer};
    // Not strtod: what that takes for the decimal point depends on the locale.
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    double real = 0;
    if (!(stream >> real)) fail("a number is out of range, and ends");
    return {real};
  }

  const std::string_view text_;
  const std::string& what_;
  size_t at_ = 0;
  int values_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view key) const {
  const auto* members = get<Object>();
  if (members == nullptr) return nullptr;
  const auto found =
      std::lower_bound(members->begin(), members->end(), key,
                       [](const Member& m, std::string_view k) { return m.key < k; });
  return found != members->end() && found->key == key ? &found->value : nullptr;
}

Json parse_json(std::string_view text, const std::string& what) {
  return Reader(text, what).document();
}

}  // namespace stmixer::graph
