// The syntax tree of the template language, and its parser.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fewbit/text/jinja_value.h"

namespace fewbit::jinja {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionPointer> positional;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
};

struct Expression {
  enum class Kind {
    literal,      // value
    name,         // text
    list,         // children
    dict,         // children: key, value, key, value, ...
    attribute,    // children[0] . text
    subscript,    // children[0] [ children[1] ]
    slice,        // children[0] [ children[1] : children[2] : children[3] ]; absent ones are null
    call,         // children[0] ( arguments )
    filter,       // children[0] | text ( arguments ); children[0] is null in a block's chain
    test,         // children[0] is text ( arguments )
    negate,       // - children[0]
    plus,         // + children[0]
    logical_not,  // not children[0]
    logical_and,
    logical_or,
    binary,       // children[0] text children[1]: + - * / // % ** ~
    compare,      // children[0] operators[0] children[1] operators[1] ...
    conditional,  // children[1] if children[0] else children[2] (may be null)
  };
  Kind kind = Kind::literal;
  size_t line = 0;
  Value value;
  std::string text;
  std::vector<ExpressionPointer> children;
  std::vector<std::string> operators;
  CallArguments arguments;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Parameter {
  std::string name;
  ExpressionPointer fallback;  // null: none
};

struct Statement {
  enum class Kind {
    text,          // text
    output,        // expression
    condition,     // branches, otherwise
    loop,          // for targets in expression if condition: body, else: otherwise
    assign,        // targets = expression, or target_object.targets[0] = expression
    assign_block,  // targets[0] = body through the filters of expression (may be null)
    macro,         // macro text(parameters): body
    call,          // {% call(parameters) expression %} body
    filter,        // body through the filters of expression
    block,         // body as it is (generation)
    break_loop,
    continue_loop,
  };
  Kind kind = Kind::text;
  size_t line = 0;
  std::string text;
  std::string target_object;
  std::vector<std::string> targets;
  ExpressionPointer expression, condition;
  std::vector<std::pair<ExpressionPointer, Body>> branches;
  std::vector<Parameter> parameters;
  Body body, otherwise;
  bool uses_loop = false;  // Whether the name "loop" stands in a loop.
};

// Blocks trim: the first newline behind a tag is removed (trim_blocks), and so are spaces before a
// tag that begins its line (lstrip_blocks). Errors name the line. Deeply nested templates are an
// Error.
Body parse(std::string_view source);

}  // namespace fewbit::jinja
