// Chat templates: a conversation as the text that a model was trained on, by the template that its
// checkpoint carries (jinja.h).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "fewbit/base/json.h"
#include "fewbit/text/jinja.h"

namespace fewbit {

using jinja::OrderedJson;

// What a template may ask for beside the messages.
struct ChatTemplateInput {
  // [{"role": "user", "content": "..."}, ...], with what else the template knows (tool_calls, ...).
  OrderedJson messages = OrderedJson::array();
  bool add_generation_prompt = true;
  OrderedJson tools;  // null: not defined
  std::string bos_token, eos_token;
  OrderedJson variables = OrderedJson::object();  // More of them ("enable_thinking").
};

class ChatTemplate {
 public:
  // Errors name the line of the template.
  static ChatTemplate parse(std::string_view source);

  // The text, BOS included where the template prints it: tokenize it with add_special off. Error:
  // messages that the template refuses, with its own words.
  std::string render(const ChatTemplateInput& input) const;

 private:
  jinja::Template template_;
};

// The template in a tokenizer_config.json: a text, or the one named "default" of a list. Absent if
// the file has none.
std::optional<std::string> chat_template_of_config(const Json& tokenizer_config);

}  // namespace fewbit
