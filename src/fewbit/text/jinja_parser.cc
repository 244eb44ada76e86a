#include <algorithm>
#include <charconv>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/text/jinja_lexer.h"
#include "fewbit/text/jinja_syntax.h"

namespace fewbit::jinja {
namespace {

using Kind = Expression::Kind;
using TokenKind = Token::Kind;

// Nested expressions and blocks: more than any template has, few enough for the stack.
constexpr int kMaxDepth = 100;

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Body whole() {
    Body body = statements({});
    if (!at_end()) fail_here(fmt::format("unexpected '{}'", peek(1).text));
    return body;
  }

 private:
  class Deeper {
   public:
    explicit Deeper(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) parser_.fail_here("the template is nested too deeply");
    }
    ~Deeper() { --parser_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Parser& parser_;
  };

  bool at_end() const { return at_ >= tokens_.size(); }
  const Token& peek(size_t ahead = 0) const {
    static const Token none{TokenKind::close_tag, "", 0};
    return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead] : none;
  }
  size_t line() const {
    return at_end() ? (tokens_.empty() ? 1 : tokens_.back().line) : peek().line;
  }
  [[noreturn]] void fail_here(std::string_view what) const { fail("line {}: {}", line(), what); }

  bool is_operation(std::string_view text) const { return peek().is(TokenKind::operation, text); }
  bool is_name(std::string_view text) const { return peek().is(TokenKind::name, text); }
  bool take_operation(std::string_view text) {
    if (!is_operation(text)) return false;
    ++at_;
    return true;
  }
  bool take_name(std::string_view text) {
    if (!is_name(text)) return false;
    ++at_;
    return true;
  }
  void expect_operation(std::string_view text) {
    if (!take_operation(text)) fail_here(fmt::format("expected '{}', not '{}'", text, peek().text));
  }
  void expect_name(std::string_view text) {
    if (!take_name(text)) fail_here(fmt::format("expected '{}', not '{}'", text, peek().text));
  }
  std::string any_name() {
    if (peek().kind != TokenKind::name) {
      fail_here(fmt::format("expected a name, not '{}'", peek().text));
    }
    return tokens_[at_++].text;
  }
  void expect_kind(TokenKind kind, const char* what) {
    if (at_end() || peek().kind != kind) fail_here(fmt::format("expected {}", what));
    ++at_;
  }
  void close_tag() { expect_kind(TokenKind::close_tag, "the end of the tag"); }

  // ---- statements

  std::unique_ptr<Statement> make(Statement::Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line();
    return statement;
  }

  // Up to a tag that begins with one of `ends`, which is left to the caller.
  Body statements(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    Body body;
    while (!at_end()) {
      const Token& token = peek();
      if (token.kind == TokenKind::text) {
        body.push_back(make(Statement::Kind::text));
        body.back()->text = token.text;
        ++at_;
      } else if (token.kind == TokenKind::open_output) {
        ++at_;
        body.push_back(make(Statement::Kind::output));
        body.back()->expression = expression_or_tuple();
        expect_kind(TokenKind::close_output, "'}}'");
      } else {
        const std::string& word = peek(1).text;
        if (std::find(ends.begin(), ends.end(), word) != ends.end()) return body;
        if (peek(1).kind != TokenKind::name) fail_here("a tag without a name");
        if (word.starts_with("end") || word == "else" || word == "elif") return body;
        ++at_;
        body.push_back(tag());
      }
    }
    return body;
  }
  // The same, and takes the closing tag, of no arguments.
  Body block(std::string_view end) {
    Body body = statements({end});
    end_tag(end);
    return body;
  }
  void end_tag(std::string_view end) {
    if (at_end()) fail_here(fmt::format("'{}' is missing", end));
    ++at_;
    expect_name(end);
    close_tag();
  }

  std::unique_ptr<Statement> tag() {
    const std::string word = any_name();
    if (word == "if") return condition();
    if (word == "for") return loop();
    if (word == "set") return assignment();
    if (word == "macro") return macro();
    if (word == "call") return call_block();
    if (word == "filter") {
      auto statement = make(Statement::Kind::filter);
      statement->expression = filter_chain();
      close_tag();
      statement->body = block("endfilter");
      return statement;
    }
    if (word == "generation") {
      auto statement = make(Statement::Kind::block);
      close_tag();
      statement->body = block("endgeneration");
      return statement;
    }
    if (word == "break" || word == "continue") {
      auto statement =
          make(word == "break" ? Statement::Kind::break_loop : Statement::Kind::continue_loop);
      close_tag();
      return statement;
    }
    fail_here(fmt::format("the tag '{}' is not supported", word));
  }

  std::unique_ptr<Statement> condition() {
    auto statement = make(Statement::Kind::condition);
    do {
      ExpressionPointer test = expression();
      close_tag();
      statement->branches.emplace_back(std::move(test), statements({"elif", "else", "endif"}));
      if (at_end()) fail_here("'endif' is missing");
      ++at_;
    } while (take_name("elif"));
    if (take_name("else")) {
      close_tag();
      statement->otherwise = block("endif");
    } else {
      expect_name("endif");
      close_tag();
    }
    return statement;
  }

  std::vector<std::string> target_names() {
    std::vector<std::string> names;
    const bool parenthesis = take_operation("(");
    do {
      if (is_name("in") || peek().kind != TokenKind::name) break;
      names.push_back(any_name());
    } while (take_operation(","));
    if (parenthesis) expect_operation(")");
    if (names.empty()) fail_here("a name to assign to is missing");
    return names;
  }

  std::unique_ptr<Statement> loop() {
    auto statement = make(Statement::Kind::loop);
    const size_t first = at_;
    statement->targets = target_names();
    expect_name("in");
    statement->expression = logical_or();
    if (take_name("if")) statement->condition = expression();
    if (is_name("recursive")) fail_here("recursive loops are not supported");
    close_tag();
    statement->body = statements({"else", "endfor"});
    if (at_end()) fail_here("'endfor' is missing");
    ++at_;
    if (take_name("else")) {
      close_tag();
      statement->otherwise = block("endfor");
    } else {
      expect_name("endfor");
      close_tag();
    }
    statement->uses_loop = std::any_of(
        tokens_.begin() + static_cast<long>(first), tokens_.begin() + static_cast<long>(at_),
        [](const Token& token) { return token.is(TokenKind::name, "loop"); });
    return statement;
  }

  std::unique_ptr<Statement> assignment() {
    auto statement = make(Statement::Kind::assign);
    statement->targets = target_names();
    if (statement->targets.size() == 1 && take_operation(".")) {
      statement->target_object = statement->targets[0];
      statement->targets[0] = any_name();
    }
    if (take_operation("=")) {
      statement->expression = expression_or_tuple();
      close_tag();
      return statement;
    }
    statement->kind = Statement::Kind::assign_block;
    if (take_operation("|")) statement->expression = filter_chain();
    close_tag();
    statement->body = block("endset");
    return statement;
  }

  std::vector<Parameter> parameters() {
    std::vector<Parameter> result;
    expect_operation("(");
    while (!take_operation(")")) {
      if (!result.empty()) {
        expect_operation(",");
        if (take_operation(")")) break;
      }
      Parameter parameter{any_name(), nullptr};
      if (take_operation("=")) parameter.fallback = expression();
      result.push_back(std::move(parameter));
    }
    return result;
  }

  std::unique_ptr<Statement> macro() {
    auto statement = make(Statement::Kind::macro);
    statement->text = any_name();
    statement->parameters = parameters();
    close_tag();
    statement->body = block("endmacro");
    return statement;
  }

  std::unique_ptr<Statement> call_block() {
    auto statement = make(Statement::Kind::call);
    if (is_operation("(")) statement->parameters = parameters();
    statement->expression = expression();
    if (statement->expression->kind != Kind::call) fail_here("'call' needs a call");
    close_tag();
    statement->body = block("endcall");
    return statement;
  }

  // ---- expressions

  ExpressionPointer node(Kind kind) const {
    auto result = std::make_unique<Expression>();
    result->kind = kind;
    result->line = line();
    return result;
  }
  ExpressionPointer node(Kind kind, ExpressionPointer a) const {
    auto result = node(kind);
    result->children.push_back(std::move(a));
    return result;
  }
  ExpressionPointer node(Kind kind, ExpressionPointer a, ExpressionPointer b) const {
    auto result = node(kind, std::move(a));
    result->children.push_back(std::move(b));
    return result;
  }
  ExpressionPointer literal(Value value) const {
    auto result = node(Kind::literal);
    result->value = std::move(value);
    return result;
  }

  // "a, b" is the list of both.
  ExpressionPointer expression_or_tuple() {
    ExpressionPointer first = expression();
    if (!is_operation(",")) return first;
    ExpressionPointer list = node(Kind::list, std::move(first));
    while (take_operation(",")) {
      if (peek().kind == TokenKind::close_tag || peek().kind == TokenKind::close_output) break;
      list->children.push_back(expression());
    }
    return list;
  }

  ExpressionPointer expression() {
    const Deeper deeper(*this);
    ExpressionPointer result = logical_or();
    while (take_name("if")) {
      ExpressionPointer test = logical_or();
      ExpressionPointer chosen = node(Kind::conditional, std::move(test), std::move(result));
      chosen->children.push_back(take_name("else") ? expression() : nullptr);
      result = std::move(chosen);
    }
    return result;
  }

  ExpressionPointer logical_or() {
    ExpressionPointer left = logical_and();
    while (take_name("or")) left = node(Kind::logical_or, std::move(left), logical_and());
    return left;
  }
  ExpressionPointer logical_and() {
    ExpressionPointer left = logical_not();
    while (take_name("and")) left = node(Kind::logical_and, std::move(left), logical_not());
    return left;
  }
  ExpressionPointer logical_not() {
    if (!take_name("not")) return comparison();
    const Deeper deeper(*this);
    return node(Kind::logical_not, logical_not());
  }

  ExpressionPointer comparison() {
    ExpressionPointer first = sum();
    std::vector<std::string> operators;
    std::vector<ExpressionPointer> operands;
    while (true) {
      std::string found;
      for (const std::string_view text : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (take_operation(text)) {
          found = text;
          break;
        }
      }
      if (found.empty() && take_name("in")) found = "in";
      if (found.empty() && is_name("not") && peek(1).is(TokenKind::name, "in")) {
        at_ += 2;
        found = "not in";
      }
      if (found.empty()) break;
      operators.push_back(found);
      operands.push_back(sum());
    }
    if (operators.empty()) return first;
    ExpressionPointer result = node(Kind::compare, std::move(first));
    result->operators = std::move(operators);
    std::move(operands.begin(), operands.end(), std::back_inserter(result->children));
    return result;
  }

  template <class Next>
  ExpressionPointer binary(std::initializer_list<std::string_view> operations, Next next) {
    ExpressionPointer left = (this->*next)();
    while (true) {
      std::string_view found;
      for (const std::string_view text : operations) {
        if (take_operation(text)) {
          found = text;
          break;
        }
      }
      if (found.empty()) return left;
      left = node(Kind::binary, std::move(left), (this->*next)());
      left->text = found;
    }
  }
  ExpressionPointer sum() { return binary({"+", "-"}, &Parser::concatenation); }
  ExpressionPointer concatenation() { return binary({"~"}, &Parser::product); }
  ExpressionPointer product() { return binary({"*", "//", "/", "%"}, &Parser::power); }
  ExpressionPointer power() { return binary({"**"}, &Parser::unary); }

  // A sign binds tighter than filters and tests, which take it along.
  ExpressionPointer unary() { return filtered(signed_operand()); }
  ExpressionPointer signed_operand() {
    const Deeper deeper(*this);
    if (take_operation("-")) return node(Kind::negate, signed_operand());
    if (take_operation("+")) return node(Kind::plus, signed_operand());
    return postfix(primary());
  }

  ExpressionPointer primary() {
    const Token token = peek();
    if (at_end()) fail_here("an expression is missing");
    switch (token.kind) {
      case TokenKind::name: {
        ++at_;
        if (token.text == "true" || token.text == "True") return literal(true);
        if (token.text == "false" || token.text == "False") return literal(false);
        if (token.text == "none" || token.text == "None") return literal(nullptr);
        ExpressionPointer name = node(Kind::name);
        name->text = token.text;
        return name;
      }
      case TokenKind::string: {
        std::string text;
        while (peek().kind == TokenKind::string && !at_end()) text += tokens_[at_++].text;
        return literal(std::move(text));
      }
      case TokenKind::integer: {
        ++at_;
        int64_t value = 0;
        const auto [end, problem] =
            std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
        if (problem != std::errc()) fail_here(fmt::format("{} is too large", token.text));
        return literal(value);
      }
      case TokenKind::real: {
        ++at_;
        double value = 0;
        std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
        return literal(value);
      }
      default:
        break;
    }
    if (take_operation("(")) return parenthesis();
    if (take_operation("[")) {
      ExpressionPointer list = node(Kind::list);
      elements(*list, "]");
      return list;
    }
    if (take_operation("{")) return dictionary();
    fail_here(fmt::format("unexpected '{}'", token.text));
  }

  void elements(Expression& list, std::string_view end) {
    while (!take_operation(end)) {
      list.children.push_back(expression());
      if (!is_operation(end)) expect_operation(",");
    }
  }

  ExpressionPointer parenthesis() {
    if (take_operation(")")) return node(Kind::list);
    ExpressionPointer first = expression();
    if (take_operation(")")) return first;
    expect_operation(",");
    ExpressionPointer list = node(Kind::list, std::move(first));
    elements(*list, ")");
    return list;
  }

  ExpressionPointer dictionary() {
    ExpressionPointer dict = node(Kind::dict);
    while (!take_operation("}")) {
      dict->children.push_back(expression());
      expect_operation(":");
      dict->children.push_back(expression());
      if (!is_operation("}")) expect_operation(",");
    }
    return dict;
  }

  ExpressionPointer postfix(ExpressionPointer value) {
    while (true) {
      if (take_operation(".")) {
        if (peek().kind == TokenKind::integer) {
          value = node(Kind::subscript, std::move(value), primary());
          continue;
        }
        value = node(Kind::attribute, std::move(value));
        value->text = any_name();
      } else if (take_operation("[")) {
        value = subscript(std::move(value));
      } else if (is_operation("(")) {
        value = node(Kind::call, std::move(value));
        value->arguments = call_arguments();
      } else {
        return value;
      }
    }
  }

  ExpressionPointer subscript(ExpressionPointer value) {
    ExpressionPointer parts[3];
    size_t colons = 0;
    while (!take_operation("]")) {
      if (take_operation(":")) {
        if (++colons > 2) fail_here("a slice has at most three parts");
      } else if (parts[colons]) {
        fail_here("expected ']'");
      } else {
        parts[colons] = expression();
      }
    }
    if (colons == 0) {
      if (!parts[0]) fail_here("an index is missing");
      return node(Kind::subscript, std::move(value), std::move(parts[0]));
    }
    ExpressionPointer slice = node(Kind::slice, std::move(value));
    for (ExpressionPointer& part : parts) slice->children.push_back(std::move(part));
    return slice;
  }

  CallArguments call_arguments() {
    CallArguments arguments;
    expect_operation("(");
    while (!take_operation(")")) {
      if (peek().kind == TokenKind::name && peek(1).is(TokenKind::operation, "=")) {
        std::string name = any_name();
        ++at_;
        arguments.named.emplace_back(std::move(name), expression());
      } else {
        arguments.positional.push_back(expression());
      }
      if (!is_operation(")")) expect_operation(",");
    }
    return arguments;
  }

  ExpressionPointer filtered(ExpressionPointer value) {
    while (true) {
      if (take_operation("|")) {
        value = one_filter(std::move(value));
      } else if (take_name("is")) {
        value = test(std::move(value));
      } else if (is_operation("(")) {
        value = node(Kind::call, std::move(value));
        value->arguments = call_arguments();
      } else {
        return value;
      }
    }
  }
  ExpressionPointer one_filter(ExpressionPointer value) {
    ExpressionPointer filter = node(Kind::filter, std::move(value));
    filter->text = any_name();
    if (is_operation("(")) filter->arguments = call_arguments();
    return filter;
  }
  // "upper | replace(a, b)" of a block; its innermost operand is null.
  ExpressionPointer filter_chain() {
    ExpressionPointer chain = one_filter(nullptr);
    while (take_operation("|")) chain = one_filter(std::move(chain));
    return chain;
  }

  ExpressionPointer test(ExpressionPointer value) {
    const bool negated = take_name("not");
    ExpressionPointer result = node(Kind::test, std::move(value));
    result->text = any_name();
    if (is_operation("(")) {
      result->arguments = call_arguments();
    } else if (begins_test_argument()) {
      result->arguments.positional.push_back(postfix(primary()));
    }
    return negated ? node(Kind::logical_not, std::move(result)) : std::move(result);
  }
  bool begins_test_argument() const {
    if (at_end()) return false;
    const Token& token = peek();
    switch (token.kind) {
      case TokenKind::name: {
        const std::string_view kKeywords[] = {"else", "or", "and", "if", "is", "not", "in"};
        return std::find(std::begin(kKeywords), std::end(kKeywords), token.text) ==
               std::end(kKeywords);
      }
      case TokenKind::string:
      case TokenKind::integer:
      case TokenKind::real:
        return true;
      case TokenKind::operation:
        return token.text == "[" || token.text == "{";
      default:
        return false;
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Body parse(std::string_view source) { return Parser(source).whole(); }

}  // namespace fewbit::jinja
