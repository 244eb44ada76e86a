#include "fewbit/text/jinja.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/text/chat_template.h"

namespace fewbit {
namespace {

using jinja::Dict;
using jinja::OrderedJson;
using jinja::Template;
using jinja::Value;

std::string render(std::string_view source, const OrderedJson& variables = OrderedJson::object()) {
  return Template::parse(source).render(Value::from_json(variables).dict());
}
std::string shown(const std::string& expression,
                  const OrderedJson& variables = OrderedJson::object()) {
  return render("{{ " + expression + " }}", variables);
}
std::string problem(std::string_view source, const OrderedJson& variables = OrderedJson::object()) {
  try {
    return "no error: " + render(source, variables);
  } catch (const Error& error) {
    return error.what();
  }
}

FEWBIT_FIXTURE_TEST(ChatTemplateFixture, "chat-template", ".json") {
  const OrderedJson cases = OrderedJson::parse(read_text_file(path()));
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(fmt::format("case {}", i));
    const OrderedJson& item = cases[i];
    const std::string name = item["template"].get<std::string>() + ".jinja";
    const ChatTemplate chat = ChatTemplate::parse(read_text_file(path().parent_path() / name));
    ChatTemplateInput input;
    input.messages = item["messages"];
    input.add_generation_prompt = item["add_generation_prompt"].get<bool>();
    input.tools = item["tools"];
    input.bos_token = item["bos_token"].get<std::string>();
    input.eos_token = item["eos_token"].get<std::string>();
    if (item.contains("error")) {
      try {
        chat.render(input);
        ADD_FAILURE() << "accepted";
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr(item["error"].get<std::string>()));
      }
    } else {
      EXPECT_EQ(chat.render(input), item["output"].get<std::string>());
    }
  }
}

TEST(JinjaTest, OperatorsBindAsInPython) {
  EXPECT_EQ(shown("'a' ~ 2 * 3 + 'b'"), "a6b");
  EXPECT_EQ(shown("-2 ** 2"), "4");
  EXPECT_EQ(shown("2 ** 3 ** 2"), "64");
  EXPECT_EQ(shown("-1 | abs"), "1");
  EXPECT_EQ(shown("'a' + ' b ' | trim"), "ab");
  EXPECT_EQ(shown("not 1 == 2"), "True");
  EXPECT_EQ(shown("1 < 2 < 3 and 3 > 2 >= 2"), "True");
  EXPECT_EQ(shown("1 if false else 2 if false else 3"), "3");
  EXPECT_EQ(shown("'x' if false"), "");
  EXPECT_EQ(shown("[] or 'else'"), "else");
  EXPECT_EQ(shown("0 and boom.x"), "0");
  EXPECT_EQ(shown("7 // 2 ~ ' ' ~ -7 // 2 ~ ' ' ~ 7 / 2"), "3 -4 3.5");
  EXPECT_EQ(shown("-7 % 3"), "2");
  EXPECT_EQ(shown("3 is odd and 4 is even and not 3 is even"), "True");
  EXPECT_EQ(shown("'a' in 'abc' and 2 not in [1, 3]"), "True");
  EXPECT_EQ(shown("'ab' 'cd'"), "abcd");
}

TEST(JinjaTest, ValuesPrintAsPythonPrintsThem) {
  EXPECT_EQ(shown("[true, none, 1.0, 2, 'a', \"it's\", {'k': [1]}]"),
            "[True, None, 1.0, 2, 'a', \"it's\", {'k': [1]}]");
  EXPECT_EQ(shown("missing"), "");
  EXPECT_EQ(shown("none"), "None");
  EXPECT_EQ(shown("{'b': [1, 2.5, 'é\"'], 'a': {}} | tojson"),
            "{\"b\": [1, 2.5, \"é\\\"\"], \"a\": {}}");
  EXPECT_EQ(shown("{'b': [1], 'a': []} | tojson(indent=2)"),
            "{\n  \"b\": [\n    1\n  ],\n  \"a\": []\n}");
}

TEST(JinjaTest, WhiteSpaceIsControlledAsTransformersDoes) {
  EXPECT_EQ(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
  EXPECT_EQ(render("a\n  {%+ if true %}\nb{% endif %}"), "a\n  b");
  EXPECT_EQ(render("a  {%- if true -%}  b  {%- endif -%}  c"), "abc");
  EXPECT_EQ(render("a  {{- 'x' -}}  b"), "axb");
  EXPECT_EQ(render("a\n  {{ 'x' }}\nb"), "a\n  x\nb");
  EXPECT_EQ(render("a\n  {# gone #}\nb"), "a\nb");
  EXPECT_EQ(render("a{% if true +%}\nb{% endif %}"), "a\nb");
  EXPECT_EQ(render("{% raw %}{{ x }}{% endraw %}!"), "{{ x }}!");
  EXPECT_EQ(render("x {% if true %}y{% endif %}"), "x y");
  EXPECT_EQ(render("{% if true %}\n  {% if true %}\nz{% endif %}{% endif %}"), "z");
}

TEST(JinjaTest, LoopsKnowWhereTheyAre) {
  EXPECT_EQ(render("{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.first }}{{ loop.last }}"
                   "{{ loop.previtem }}{{ loop.nextitem }}|{% endfor %}"),
            "1TrueFalse2|2FalseFalse13|3FalseTrue2|");
  EXPECT_EQ(render("{% for x in [1, 2, 3, 4] if x is even %}{{ loop.length }}{{ x }}{% endfor %}"),
            "2224");
  EXPECT_EQ(render("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}"), "a1b2");
  EXPECT_EQ(render("{% for x in [] %}x{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(render("{% for x in range(9) %}{% if x == 1 %}{% continue %}{% endif %}"
                   "{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}"),
            "02");
  EXPECT_EQ(render("{% for x in 'ab' %}{{ loop.cycle('p', 'q') }}{% endfor %}"), "pq");
}

TEST(JinjaTest, LoopsKeepTheirVariablesAndNamespacesLetThemOut) {
  EXPECT_EQ(render("{% set a = 1 %}{% for x in [1] %}{% set a = 2 %}{% endfor %}{{ a }}"), "1");
  EXPECT_EQ(render("{% set n = namespace(a=1) %}{% for x in [1] %}{% set n.a = 2 %}{% endfor %}"
                   "{{ n.a }}"),
            "2");
  EXPECT_EQ(render("{% if true %}{% set a = 1 %}{% endif %}{{ a }}"), "1");
  EXPECT_EQ(render("{% set a, b = [1, 2] %}{{ a }}{{ b }}"), "12");
  EXPECT_EQ(render("{% set t | upper %}abc{% endset %}{{ t }}"), "ABC");
}

TEST(JinjaTest, MacrosTakeDefaultsNamesAndBlocks) {
  EXPECT_EQ(render("{% macro m(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}"),
            "1x12");
  EXPECT_EQ(render("{% macro m() %}<{{ caller('i') }}>{% endmacro %}"
                   "{% call(x) m() %}{{ x }}!{% endcall %}"),
            "<i!>");
  EXPECT_EQ(render("{% filter upper | replace('A', 'b') %}aa{% endfilter %}"), "bb");
  EXPECT_EQ(render("{% generation %}x{% endgeneration %}"), "x");
}

TEST(JinjaTest, StringsHaveTheMethodsOfPython) {
  EXPECT_EQ(shown("' a b '.strip() ~ '|' ~ 'xxaxx'.strip('x') ~ '|' ~ 'aab'.lstrip('a')"),
            "a b|a|b");
  EXPECT_EQ(shown("'a,b,c'.split(',')[-1] ~ ' a  b '.split() | length"), "c2");
  EXPECT_EQ(shown("'a</think>b'.split('</think>')[0].rstrip('\\n')"), "a");
  EXPECT_EQ(shown("'hello world'.title() ~ 'ABC'.lower() ~ 'abc'.capitalize()"),
            "Hello WorldabcAbc");
  EXPECT_EQ(shown("'abc'.startswith('ab') and 'abc'.endswith(('x', 'c'))"), "True");
  EXPECT_EQ(shown("'héllo'[1:3] ~ 'abc'[::-1] ~ 'abc'[-1]"), "élcbac");
  EXPECT_EQ(shown("'é'.upper() ~ 'É'.lower()"), "Éé");
}

TEST(JinjaTest, FiltersDoWhatTheirNamesSay) {
  const OrderedJson people = OrderedJson::parse(
      R"({"p": [{"n": "b", "a": 2, "x": {"y": 1}}, {"n": "a", "a": 1, "x": {"y": 2}}]})");
  EXPECT_EQ(shown("p | map(attribute='n') | join(', ')", people), "b, a");
  EXPECT_EQ(shown("p | map(attribute='x.y') | list", people), "[1, 2]");
  EXPECT_EQ(shown("p | selectattr('a', 'equalto', 2) | map(attribute='n') | first", people), "b");
  EXPECT_EQ(shown("p | rejectattr('a', '>', 1) | map(attribute='n') | list", people), "['a']");
  EXPECT_EQ(shown("p | sort(attribute='a') | map(attribute='n') | join", people), "ab");
  EXPECT_EQ(shown("[3, 1, 2, 1] | sort | unique | reverse | list"), "[3, 2, 1]");
  EXPECT_EQ(shown("['a', 'b'] | map('upper') | list"), "['A', 'B']");
  EXPECT_EQ(shown("[0, 1, none, 2] | select | list"), "[1, 2]");
  EXPECT_EQ(shown("[1, 2, 3] | reject('odd') | list"), "[2]");
  EXPECT_EQ(shown("{'b': 1, 'a': 2} | dictsort"), "[['a', 2], ['b', 1]]");
  EXPECT_EQ(shown("x | default('d') ~ '' | default('e', true) ~ none | d('f')"), "deNone");
  EXPECT_EQ(shown("'3.7' | float | int + '4' | int + 'x' | int(5)"), "12");
  EXPECT_EQ(shown("2.5 | round ~ '|' ~ 2.347 | round(2)"), "2.0|2.35");
  EXPECT_EQ(shown("'a\\nb\\n\\nc' | indent(2)"), "a\n  b\n\n  c");
  EXPECT_EQ(shown("'<&>' | escape"), "&lt;&amp;&gt;");
}

TEST(JinjaTest, ErrorsNameTheLine) {
  EXPECT_THAT(problem("a\n{{ x.y.z }}"), ::testing::HasSubstr("line 2: 'x' is undefined"));
  EXPECT_THAT(problem("{{ 1 +"), ::testing::HasSubstr("line 1"));
  EXPECT_THAT(problem("\n\n{% if x %}"), ::testing::HasSubstr("'endif' is missing"));
  EXPECT_THAT(problem("{% nonsense %}"), ::testing::HasSubstr("'nonsense' is not supported"));
  EXPECT_THAT(problem("{{ 1 | nonsense }}"), ::testing::HasSubstr("filter 'nonsense'"));
  EXPECT_THAT(problem("{{ 1 / 0 }}"), ::testing::HasSubstr("division by zero"));
  EXPECT_THAT(problem("{{ 'a' + 1 }}"), ::testing::HasSubstr("expected a number"));
  EXPECT_EQ(problem("{{ raise_exception('no such role') }}"), "no such role");
  EXPECT_THAT(problem("{% set x.y = 1 %}", {{"x", {{"y", 0}}}}), ::testing::HasSubstr("namespace"));
}

TEST(JinjaTest, HostileTemplatesAreStopped) {
  EXPECT_THAT(problem("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}"
                      "{% endfor %}"),
              ::testing::HasSubstr("steps"));
  EXPECT_THAT(problem("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
              ::testing::HasSubstr("too deeply"));
  EXPECT_THAT(problem("{{ 'aaaaaaaaaaaaaaaa' * 100000000000 }}"),
              ::testing::HasSubstr("more than"));
  EXPECT_THAT(problem("{% set n = namespace(s='xxxxxxxx') %}{% for i in range(100) %}"
                      "{% set n.s = n.s ~ n.s %}{% endfor %}"),
              ::testing::HasSubstr("more than"));
  EXPECT_THAT(problem("{% set l = [] %}{% set _ = l.append(l) %}{{ l }}"),
              ::testing::HasSubstr("deep"));
  // A chain too long to walk, or to take apart by recursion.
  EXPECT_THAT(problem("{% set n = namespace(l=[]) %}{% for i in range(100000) %}"
                      "{% set n.l = [n.l] %}{% endfor %}{{ n.l == [[]] }}{{ n.l }}"),
              ::testing::HasSubstr("deep"));
  // Twice the last, sixty times.
  EXPECT_THAT(problem("{% set n = namespace(l=[1]) %}{% for i in range(60) %}"
                      "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}"),
              ::testing::HasSubstr("more than"));
  EXPECT_THAT(problem("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"),
              ::testing::HasSubstr("deeply"));
  std::string blocks;
  for (int i = 0; i < 2000; ++i) blocks += "{% if 1 %}";
  EXPECT_THAT(problem(blocks), ::testing::HasSubstr("deeply"));
  EXPECT_THAT(problem("{{ 9223372036854775807 + 1 }}"), ::testing::HasSubstr("too large"));
}

TEST(ChatTemplateTest, ConfigsHoldATextOrAList) {
  EXPECT_EQ(chat_template_of_config(Json::parse(R"({"chat_template": "x"})")), "x");
  EXPECT_EQ(chat_template_of_config(Json::parse(R"({"chat_template": null})")), std::nullopt);
  EXPECT_EQ(chat_template_of_config(Json::parse(
                R"({"chat_template": [{"name": "rag", "template": "r"},
                                      {"name": "default", "template": "d"}]})")),
            "d");
  EXPECT_THROW(chat_template_of_config(Json::parse(R"({"chat_template": []})")), Error);
}

}  // namespace
}  // namespace fewbit
