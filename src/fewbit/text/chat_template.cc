#include "fewbit/text/chat_template.h"

#include "fewbit/base/error.h"

namespace fewbit {

ChatTemplate ChatTemplate::parse(std::string_view source) {
  ChatTemplate result;
  result.template_ = with_context("chat template", [&] { return jinja::Template::parse(source); });
  return result;
}

std::string ChatTemplate::render(const ChatTemplateInput& input) const {
  require(input.messages.is_array(), "messages are no list");
  jinja::Dict variables;
  for (const auto& [name, value] : input.variables.items()) {
    variables.set(name, jinja::Value::from_json(value));
  }
  variables.set("messages", jinja::Value::from_json(input.messages));
  variables.set("add_generation_prompt", input.add_generation_prompt);
  if (!input.tools.is_null()) variables.set("tools", jinja::Value::from_json(input.tools));
  variables.set("bos_token", input.bos_token);
  variables.set("eos_token", input.eos_token);
  return with_context("chat template", [&] { return template_.render(variables); });
}

std::optional<std::string> chat_template_of_config(const Json& tokenizer_config) {
  const auto found = tokenizer_config.find("chat_template");
  if (found == tokenizer_config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  require(found->is_array(), "key 'chat_template': neither a text nor a list of templates");
  for (const Json& entry : *found) {
    if (json_get<std::string>(entry, "name") == "default") {
      return json_get<std::string>(entry, "template");
    }
  }
  fail("key 'chat_template': none of the templates is named 'default'");
}

}  // namespace fewbit
