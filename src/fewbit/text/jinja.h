// The template language of chat models: the part of Jinja that published chat templates use, with
// the meaning that Python's Jinja 2 gives it under the settings of transformers (trim_blocks and
// lstrip_blocks on, nothing escaped). docs/formats/chat-template.md lists what there is.
//
// Templates come with checkpoints, so they may be hostile: nesting, steps and output are limited,
// and a template reaches nothing but the values it is given.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "fewbit/text/jinja_value.h"

namespace fewbit::jinja {

struct Limits {
  size_t steps = 1'000'000;               // Evaluated expressions and statements.
  size_t output_bytes = size_t{1} << 26;  // Of the text, and of any text on the way.
};

class Template {
 public:
  // Errors name the line.
  static Template parse(std::string_view source);

  // The text for these variables. Errors name the line; what the template raises itself
  // (raise_exception) is an Error with its message alone.
  std::string render(const Dict& variables, const Limits& limits = {}) const;

 private:
  struct Tree;
  std::shared_ptr<const Tree> tree_;
};

}  // namespace fewbit::jinja
