#include "fewbit/text/jinja.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "fewbit/base/error.h"
#include "fewbit/text/jinja_builtins.h"
#include "fewbit/text/jinja_syntax.h"

namespace fewbit::jinja {
namespace {

using Kind = Expression::Kind;

// Nested calls, blocks and expressions at run time (a macro may call itself).
constexpr int kMaxDepth = 200;

// Variables of one scope; lookups go on in the scope around it. Shared, because a macro keeps the
// scope in which it was defined.
struct Scope {
  std::map<std::string, Value, std::less<>> variables;
  std::shared_ptr<Scope> around;
};
using ScopePointer = std::shared_ptr<Scope>;

enum class Flow { go_on, break_loop, continue_loop };

class Interpreter {
 public:
  Interpreter(const Dict& variables, const Limits& limits) : limits_(limits) {
    scope_ = std::make_shared<Scope>();
    for (const auto& [name, value] : variables.items) scope_->variables[name.string()] = value;
    registry_.filter = [this](std::string_view name, const Value& value, const Arguments& a) {
      count_step();
      return apply_filter(name, value, a, registry_);
    };
    registry_.test = [this](std::string_view name, const Value& value, const Arguments& a) {
      count_step();
      return apply_test(name, value, a);
    };
    registry_.check_size = [this](size_t bytes) {
      require(bytes <= limits_.output_bytes, "the template makes a text of more than {} bytes",
              limits_.output_bytes);
    };
  }

  std::string render(const Body& body) {
    run(body);
    // A macro that was stored in its own scope would keep it alive for ever.
    for (const ScopePointer& scope : macro_scopes_) scope->variables.clear();
    return std::move(output_);
  }

 private:
  class Deeper {
   public:
    explicit Deeper(Interpreter& interpreter) : interpreter_(interpreter) {
      require(++interpreter_.depth_ <= kMaxDepth, "the template nests calls too deeply");
    }
    ~Deeper() { --interpreter_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Interpreter& interpreter_;
  };

  // A scope inside the current one, until the end of the block.
  class Inside {
   public:
    Inside(Interpreter& interpreter, ScopePointer around)
        : interpreter_(interpreter), before_(interpreter.scope_) {
      interpreter.scope_ = std::make_shared<Scope>(Scope{{}, std::move(around)});
    }
    ~Inside() { interpreter_.scope_ = before_; }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    Interpreter& interpreter_;
    ScopePointer before_;
  };

  void count_step() {
    require(++steps_ <= limits_.steps, "the template takes more than {} steps", limits_.steps);
  }

  void write(std::string_view text) {
    registry_.check_size(output_.size() + text.size());
    output_ += text;
  }

  // The text that `body` writes.
  std::string captured(const Body& body) {
    std::string outer = std::move(output_);
    output_.clear();
    run(body);
    std::string text = std::move(output_);
    output_ = std::move(outer);
    return text;
  }

  // ---- statements

  Flow run(const Body& body) {
    const Deeper deeper(*this);
    for (const auto& statement : body) {
      count_step();
      const Flow flow = run(*statement);
      if (flow != Flow::go_on) return flow;
    }
    return Flow::go_on;
  }

  Flow run(const Statement& s) {
    switch (s.kind) {
      case Statement::Kind::text:
        write(s.text);
        break;
      case Statement::Kind::output:
        write(evaluate(*s.expression).text());
        break;
      case Statement::Kind::condition:
        for (const auto& [test, body] : s.branches) {
          if (evaluate(*test).truth()) return run(body);
        }
        return run(s.otherwise);
      case Statement::Kind::loop:
        loop(s);
        break;
      case Statement::Kind::assign:
        assign(s, evaluate(*s.expression));
        break;
      case Statement::Kind::assign_block:
        assign(s, filtered(s.expression.get(), inner_text(s.body)));
        break;
      case Statement::Kind::macro:
        scope_->variables[s.text] = make_macro(s.text, s.parameters, s.body);
        break;
      case Statement::Kind::call:
        call_block(s);
        break;
      case Statement::Kind::filter:
        write(filtered(s.expression.get(), inner_text(s.body)).text());
        break;
      case Statement::Kind::block:
        return run(s.body);
      case Statement::Kind::break_loop:
        return Flow::break_loop;
      case Statement::Kind::continue_loop:
        return Flow::continue_loop;
    }
    return Flow::go_on;
  }

  Value inner_text(const Body& body) {
    const Inside inside(*this, scope_);
    return captured(body);
  }

  void assign(const Statement& s, const Value& value) {
    if (!s.target_object.empty()) {
      Dict& object = lookup(s.target_object).dict();
      require(object.is_namespace, "'{}' is no namespace: its attributes cannot be set",
              s.target_object);
      object.set(s.targets[0], value);
    } else {
      unpack(s.targets, value);
    }
  }

  void unpack(const std::vector<std::string>& targets, const Value& value) {
    if (targets.size() == 1) {
      scope_->variables[targets[0]] = value;
      return;
    }
    const List parts = iterate(value);
    require(parts.size() == targets.size(), "{} values cannot be assigned to {} names",
            parts.size(), targets.size());
    for (size_t i = 0; i < parts.size(); ++i) scope_->variables[targets[i]] = parts[i];
  }

  void loop(const Statement& s) {
    List items = iterate(evaluate(*s.expression));
    if (s.condition) {
      List kept;
      for (const Value& item : items) {
        const Inside inside(*this, scope_);
        unpack(s.targets, item);
        if (evaluate(*s.condition).truth()) kept.push_back(item);
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      run(s.otherwise);
      return;
    }
    ++loop_depth_;
    for (size_t i = 0; i < items.size(); ++i) {
      count_step();
      const Inside inside(*this, scope_);
      if (s.uses_loop) scope_->variables["loop"] = loop_object(items, i);
      unpack(s.targets, items[i]);
      if (run(s.body) == Flow::break_loop) break;
    }
    --loop_depth_;
  }

  Value loop_object(const List& items, size_t i) const {
    const size_t count = items.size();
    Dict loop;
    const auto set = [&](const char* name, Value value) {
      loop.items.emplace_back(name, std::move(value));
    };
    set("index", i + 1);
    set("index0", i);
    set("revindex", count - i);
    set("revindex0", count - i - 1);
    set("first", i == 0);
    set("last", i + 1 == count);
    set("length", count);
    set("depth", loop_depth_);
    set("depth0", loop_depth_ - 1);
    set("previtem", i > 0 ? items[i - 1] : Value::undefined("loop.previtem"));
    set("nextitem", i + 1 < count ? items[i + 1] : Value::undefined("loop.nextitem"));
    set("cycle", Function([i](const Arguments& arguments) {
          require(!arguments.positional.empty(), "loop.cycle needs values");
          return arguments.positional[i % arguments.positional.size()];
        }));
    return loop;
  }

  Value make_macro(const std::string& name, const std::vector<Parameter>& parameters,
                   const Body& body) {
    const ScopePointer defined_in = scope_;
    macro_scopes_.push_back(defined_in);
    return Function([this, name, &parameters, &body, defined_in](const Arguments& given) {
      const Deeper deeper(*this);
      require(given.positional.size() <= parameters.size(), "{} takes {} arguments, not {}", name,
              parameters.size(), given.positional.size());
      const Inside inside(*this, defined_in);
      for (const auto& [argument, value] : given.named) {
        const bool known = std::any_of(parameters.begin(), parameters.end(),
                                       [&](const Parameter& p) { return p.name == argument; });
        require(known || argument == "caller", "{} takes no argument '{}'", name, argument);
        scope_->variables[argument] = value;
      }
      for (size_t i = 0; i < parameters.size(); ++i) {
        const Parameter& parameter = parameters[i];
        if (i < given.positional.size()) {
          scope_->variables[parameter.name] = given.positional[i];
        } else if (!scope_->variables.contains(parameter.name)) {
          scope_->variables[parameter.name] =
              parameter.fallback ? evaluate(*parameter.fallback) : Value::undefined(parameter.name);
        }
      }
      return Value(captured(body));
    });
  }

  void call_block(const Statement& s) {
    const Expression& call = *s.expression;
    const Value macro = evaluate(*call.children[0]);
    Arguments arguments = evaluate(call.arguments);
    arguments.named.emplace_back("caller", make_macro("caller", s.parameters, s.body));
    write(with_line(call, [&] { return macro.function()(arguments); }).text());
  }

  // `value` through a block's chain of filters, whose innermost operand is null.
  Value filtered(const Expression* chain, Value value) {
    if (chain == nullptr) return value;
    value = filtered(chain->children[0].get(), std::move(value));
    return with_line(
        *chain, [&] { return registry_.filter(chain->text, value, evaluate(chain->arguments)); });
  }

  // ---- expressions

  // Errors from inside get the line of the innermost expression, once.
  template <class F>
  Value with_line(const Expression& e, const F& f) {
    try {
      return f();
    } catch (const Error& error) {
      if (std::string_view(error.what()).starts_with("line ")) throw;
      throw error.with_context(fmt::format("line {}", e.line));
    }
  }

  Value evaluate(const Expression& e) {
    const Deeper deeper(*this);
    count_step();
    return with_line(e, [&] { return value_of(e); });
  }

  Arguments evaluate(const CallArguments& given) {
    Arguments arguments;
    for (const auto& argument : given.positional) {
      arguments.positional.push_back(evaluate(*argument));
    }
    for (const auto& [name, argument] : given.named) {
      arguments.named.emplace_back(name, evaluate(*argument));
    }
    return arguments;
  }

  Value lookup(const std::string& name) const {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->around.get()) {
      const auto found = scope->variables.find(name);
      if (found != scope->variables.end()) return found->second;
    }
    if (std::optional<Value> function = find_function(name)) return *function;
    return Value::undefined(name);
  }

  Value value_of(const Expression& e) {
    const auto child = [&](size_t i) { return evaluate(*e.children[i]); };
    switch (e.kind) {
      case Kind::literal:
        return e.value;
      case Kind::name:
        return lookup(e.text);
      case Kind::list: {
        List list;
        for (const auto& item : e.children) list.push_back(evaluate(*item));
        return list;
      }
      case Kind::dict: {
        Dict dict;
        for (size_t i = 0; i < e.children.size(); i += 2) dict.set(child(i), child(i + 1));
        return dict;
      }
      case Kind::attribute:
        return attribute_of(child(0), e.text, registry_);
      case Kind::subscript:
        return item_of(child(0), child(1), registry_);
      case Kind::slice: {
        const auto part = [&](size_t i) { return e.children[i] ? child(i) : Value(nullptr); };
        return slice_of(child(0), part(1), part(2), part(3));
      }
      case Kind::call: {
        const Value function = child(0);
        return function.function()(evaluate(e.arguments));
      }
      case Kind::filter:
        return registry_.filter(e.text, child(0), evaluate(e.arguments));
      case Kind::test:
        return registry_.test(e.text, child(0), evaluate(e.arguments));
      case Kind::negate: {
        const Value value = child(0);
        if (value.is_float()) return -value.real();
        return static_cast<int64_t>(0 - static_cast<uint64_t>(value.integer()));
      }
      case Kind::plus: {
        const Value value = child(0);
        return value.is_float() ? value : Value(value.integer());
      }
      case Kind::logical_not:
        return !child(0).truth();
      case Kind::logical_and: {
        Value left = child(0);
        return left.truth() ? child(1) : left;
      }
      case Kind::logical_or: {
        Value left = child(0);
        return left.truth() ? left : child(1);
      }
      case Kind::binary:
        return binary(e.text, child(0), child(1));
      case Kind::compare:
        return comparison(e);
      case Kind::conditional:
        if (child(0).truth()) return child(1);
        return e.children[2] ? child(2) : Value::undefined("the else of an if");
    }
    throw std::logic_error("expression");
  }

  bool comparison(const Expression& e) {
    Value left = evaluate(*e.children[0]);
    for (size_t i = 0; i < e.operators.size(); ++i) {
      Value right = evaluate(*e.children[i + 1]);
      const std::string& operation = e.operators[i];
      const bool holds = operation == "=="   ? left == right
                         : operation == "!=" ? !(left == right)
                         : operation == "<"  ? left < right
                         : operation == ">"  ? right < left
                         : operation == "<=" ? !(right < left)
                         : operation == ">=" ? !(left < right)
                         : operation == "in" ? contains(right, left)
                                             : !contains(right, left);
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  std::string joined(const std::string& a, const std::string& b) {
    registry_.check_size(a.size() + b.size());
    return a + b;
  }

  Value repeated(const Value& value, int64_t count) {
    const auto times = static_cast<size_t>(std::max<int64_t>(0, count));
    const size_t unit = value.is_string() ? value.string().size() : value.list().size();
    require(unit == 0 || times <= limits_.output_bytes / unit,
            "the template makes a value of more than {} parts", limits_.output_bytes);
    steps_ += value.is_list() ? unit * times : 0;
    count_step();
    std::string text;
    List list;
    for (size_t i = 0; unit > 0 && i < times; ++i) {
      if (value.is_string()) {
        text += value.string();
      } else {
        list.insert(list.end(), value.list().begin(), value.list().end());
      }
    }
    return value.is_string() ? Value(std::move(text)) : Value(std::move(list));
  }

  Value binary(const std::string& operation, const Value& a, const Value& b) {
    if (operation == "~") return joined(a.text(), b.text());
    if (operation == "+" && a.is_string() && b.is_string()) return joined(a.string(), b.string());
    if (operation == "+" && a.is_list() && b.is_list()) {
      List list = a.list();
      list.insert(list.end(), b.list().begin(), b.list().end());
      return list;
    }
    if (operation == "*" && (a.is_string() || a.is_list())) return repeated(a, b.integer());
    if (operation == "*" && (b.is_string() || b.is_list())) return repeated(b, a.integer());
    return arithmetic(operation, a, b);
  }

  static Value arithmetic(const std::string& operation, const Value& a, const Value& b) {
    const double x = a.real(), y = b.real();
    const bool divides = operation == "/" || operation == "//" || operation == "%";
    require(!divides || y != 0, "a division by zero");
    if (operation == "/") return x / y;
    if (a.is_float() || b.is_float()) {
      if (operation == "+") return x + y;
      if (operation == "-") return x - y;
      if (operation == "*") return x * y;
      if (operation == "//") return std::floor(x / y);
      if (operation == "%") return x - y * std::floor(x / y);
      return std::pow(x, y);
    }
    return integer_arithmetic(operation, a.integer(), b.integer());
  }

  static Value integer_arithmetic(const std::string& operation, int64_t x, int64_t y) {
    int64_t result = 0;
    bool overflow = false;
    if (operation == "+") {
      overflow = __builtin_add_overflow(x, y, &result);
    } else if (operation == "-") {
      overflow = __builtin_sub_overflow(x, y, &result);
    } else if (operation == "*") {
      overflow = __builtin_mul_overflow(x, y, &result);
    } else if (operation == "**") {
      if (y < 0) return std::pow(static_cast<double>(x), static_cast<double>(y));
      constexpr int64_t kMaxExponent = 4096;  // Bases of 0 and +-1 aside, 63 overflows.
      overflow = y > kMaxExponent;
      result = 1;
      for (int64_t i = 0; i < y && !overflow; ++i) {
        overflow = __builtin_mul_overflow(result, x, &result);
      }
    } else {
      // Python rounds quotients down.
      overflow = x == std::numeric_limits<int64_t>::min() && y == -1;
      if (!overflow) {
        const int64_t remainder = x % y;
        const bool below = remainder != 0 && (remainder < 0) != (y < 0);
        result = operation == "//" ? x / y - (below ? 1 : 0) : remainder + (below ? y : 0);
      }
    }
    require(!overflow, "{} {} {} is too large", x, operation, y);
    return result;
  }

  const Heap heap_;  // First, so that it goes last.
  const Limits limits_;
  Registry registry_;
  ScopePointer scope_;
  std::vector<ScopePointer> macro_scopes_;
  std::string output_;
  size_t steps_ = 0;
  int depth_ = 0;
  int64_t loop_depth_ = 0;
};

}  // namespace

struct Template::Tree {
  Body body;
};

Template Template::parse(std::string_view source) {
  Template result;
  result.tree_ = std::make_shared<Tree>(Tree{jinja::parse(source)});
  return result;
}

std::string Template::render(const Dict& variables, const Limits& limits) const {
  try {
    return Interpreter(variables, limits).render(tree_->body);
  } catch (const Raised& raised) {
    throw Error(raised.message);
  }
}

}  // namespace fewbit::jinja
