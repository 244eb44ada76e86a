// The one exception type of fewbit, and how context is added to it on the way up.
//
// A message says what was wrong, where (file, tensor, key, byte offset) and what would be right:
//   gguf: model.gguf: tensor blk.3.attn_q.weight: type 36 is not known
// Nothing in a library prints or exits; the command line turns an Error into exit code 2.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace fewbit {

// Bad input or an impossible request: the user can mend it. Internal faults are std::logic_error.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;

  // The same error with "context: " in front.
  Error with_context(std::string_view context) const {
    return Error(fmt::format("{}: {}", context, what()));
  }
};

// Thrown when the user pressed Ctrl-C (see interrupt.h); the command line exits with 130.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

// Throws Error with a formatted message.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Throws Error with the formatted message unless `condition` holds.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) fail(format, std::forward<Args>(args)...);
}

// Runs `body`; an Error that leaves it gets `context` in front.
template <class Body>
decltype(auto) with_context(std::string_view context, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const Error& error) {
    throw error.with_context(context);
  }
}

}  // namespace fewbit
