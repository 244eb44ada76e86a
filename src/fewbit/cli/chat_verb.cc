// fewbit chat: a conversation with a model on the terminal, or one answer.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/log.h"
#include "fewbit/cli/generation_options.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/model/model_text.h"
#include "fewbit/text/chat_template.h"

namespace fewbit::cli {
namespace {

constexpr size_t kDefaultContext = 4096;

struct ChatArguments : GenerationArguments {
  std::string system, message, template_file;
  std::vector<std::string> variables;
  bool print_prompt = false;
};

ChatTemplate open_template(const Generator& generator, const ChatArguments& a) {
  if (!a.template_file.empty()) {
    return with_context(a.template_file,
                        [&] { return ChatTemplate::parse(read_text_file(a.template_file)); });
  }
  const std::optional<std::string> source = load_chat_template(generator.checkpoint);
  require(source.has_value(),
          "{}: the model has no chat template: give --template FILE, or use fewbit run", a.model);
  return ChatTemplate::parse(*source);
}

// NAME=VALUE, VALUE as JSON or else as a text.
OrderedJson parse_variables(const std::vector<std::string>& given) {
  OrderedJson variables = OrderedJson::object();
  for (const std::string& text : given) {
    const size_t equals = text.find('=');
    require(equals != std::string::npos && equals > 0, "--set {}: should be NAME=VALUE", text);
    const std::string value = text.substr(equals + 1);
    OrderedJson parsed = OrderedJson::parse(value, nullptr, /*allow_exceptions=*/false);
    variables[text.substr(0, equals)] = parsed.is_discarded() ? OrderedJson(value) : parsed;
  }
  return variables;
}

// The conversation: its messages, and the model that answers them.
class Chat {
 public:
  explicit Chat(ChatArguments& arguments)
      : arguments_(arguments),
        generator_(open_generator(arguments)),
        template_(open_template(generator_, arguments)),
        engine_(generator_.model, generator_.tokenizer, engine_options()) {
    const SpecialTokens& special = generator_.tokenizer.special();
    if (special.bos) input_.bos_token = generator_.tokenizer.token_text(*special.bos);
    if (special.eos) input_.eos_token = generator_.tokenizer.token_text(*special.eos);
    input_.variables = parse_variables(arguments.variables);
    reset();
  }

  void reset() {
    input_.messages = OrderedJson::array();
    if (!arguments_.system.empty()) {
      input_.messages.push_back({{"role", "system"}, {"content", arguments_.system}});
    }
  }

  // Answers on standard output. A message that cannot be answered is forgotten.
  void answer(const std::string& message) {
    input_.messages.push_back({{"role", "user"}, {"content", message}});
    try {
      const std::string text = template_.render(input_);
      if (arguments_.print_prompt) fmt::print(stderr, "{}\n", text);
      std::vector<int32_t> prompt = generator_.tokenizer.encode(text, {.add_special = false});
      require(prompt.size() < engine_.context(),
              "the conversation of {} tokens fills the context of {}: /reset, or a larger "
              "--context",
              prompt.size(), engine_.context());
      const GenerationOutcome outcome =
          generate(engine_, make_request(generator_, arguments_, std::move(prompt)), true);
      fmt::print("\n");
      std::fflush(stdout);
      if (!arguments_.quiet) report(outcome);
      if (outcome.interrupted) throw Interrupted();
      input_.messages.push_back({{"role", "assistant"}, {"content", outcome.text}});
    } catch (const Error&) {
      input_.messages.erase(input_.messages.end() - 1);
      throw;
    }
  }

 private:
  BatchEngine::Options engine_options() const {
    BatchEngine::Options options;
    options.context = arguments_.context > 0
                          ? arguments_.context
                          : std::min(generator_.checkpoint.spec.context, kDefaultContext);
    return options;
  }

  ChatArguments& arguments_;
  Generator generator_;
  ChatTemplate template_;
  BatchEngine engine_;
  ChatTemplateInput input_;
};

void converse(Chat& chat) {
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print(stderr, "/reset forgets the conversation, /quit ends it\n");
  std::string line;
  while (true) {
    if (terminal) {
      fmt::print("> ");
      std::fflush(stdout);
      wait_for_input(STDIN_FILENO);
    }
    if (!std::getline(std::cin, line)) break;
    throw_if_interrupted();
    if (line == "/quit") break;
    if (line == "/reset") {
      chat.reset();
    } else if (!line.empty()) {
      // At a terminal a refused message is no reason to lose the conversation.
      try {
        chat.answer(line);
      } catch (const Error& error) {
        if (!terminal) throw;
        fmt::print(stderr, "error: {}\n", error.what());
      }
    }
  }
  throw_if_interrupted();
}

void run(ChatArguments& arguments) {
  Chat chat(arguments);
  if (!arguments.message.empty()) return chat.answer(arguments.message);
  converse(chat);
}

}  // namespace

void add_chat_verb(CLI::App& app) {
  CLI::App* verb =
      app.add_subcommand("chat", "Talk with an instruction-tuned model, by its chat template");
  verb->footer(
      "Examples:\n"
      "  fewbit chat smollm2-instruct.gguf --system \"You answer in one sentence.\"\n"
      "  fewbit chat qwen3/ --message \"Name three rivers.\" --set enable_thinking=false\n"
      "Without --message every line of standard input is a message.");
  auto a = std::make_shared<ChatArguments>();
  add_generation_options(*verb, *a);
  verb->add_option("--system", a->system, "a system message before the conversation");
  verb->add_option("-m,--message", a->message, "one message; its answer is all");
  verb->add_option("--template", a->template_file, "a Jinja chat template in place of the model's");
  verb->add_option("--set", a->variables, "NAME=VALUE for the template; repeatable");
  verb->add_flag("--print-prompt", a->print_prompt, "show the rendered text on standard error");
  verb->callback([a] { run(*a); });
}

}  // namespace fewbit::cli
