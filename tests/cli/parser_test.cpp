#include "quadrat/cli/parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "quadrat/base/error.h"

namespace quadrat::cli {
namespace {

using testing::HasSubstr;
using testing::Throws;

struct Program {
  Program() : parser("quadrat-test", "test", "") {
    parser.add("train", train, "DIR", "folder");
    parser.add("num_epochs,n", epochs, "N", "epochs");
    parser.add("rate", rate, "X", "rate");
    parser.add("image", images, "F", "images");
    parser.add("fast", fast, "be fast");
    parser.add_choice("kind,k", kind, {"a", "b"}, "kind");
    parser.require({"train"});
  }
  bool parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "quadrat-test");
    return parser.parse(static_cast<int>(arguments.size()), arguments.data());
  }
  std::string error(std::vector<const char*> arguments) {
    try {
      parse(std::move(arguments));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  }
  Path train;
  std::int64_t epochs = 10;
  double rate = 0.5;
  std::vector<std::string> images;
  bool fast = false;
  std::string kind = "a";
  Parser parser;
};

class File {
 public:
  explicit File(const std::string& content) { std::ofstream(path_) << content; }
  ~File() { std::filesystem::remove(path_); }
  const char* path() const { return path_.c_str(); }

 private:
  std::string path_ = testing::TempDir() + "quadrat_parser_test.ini";
};

TEST(Parser, takes_hyphens_for_underscores_and_both_ways_of_giving_a_value) {
  Program p;
  ASSERT_TRUE(
      p.parse({"--train", "a b/c", "--num-epochs=3", "--image", "x", "y", "--fast", "-k", "b"}));
  EXPECT_EQ(p.train, "a b/c");
  EXPECT_EQ(p.epochs, 3);
  EXPECT_EQ(p.images, (std::vector<std::string>{"x", "y"}));
  EXPECT_TRUE(p.fast);
  EXPECT_EQ(p.kind, "b");
}

TEST(Parser, a_value_may_begin_with_hyphens_and_keeps_them) {
  Program p;
  ASSERT_TRUE(p.parse({"--train=--a-b", "--rate", "-0.5", "-n", "+3"}));
  EXPECT_EQ(p.epochs, 3);
  EXPECT_EQ(p.train, "--a-b");
  EXPECT_EQ(p.rate, -0.5);
}

TEST(Parser, the_command_line_overrules_the_file) {
  const File file("train = here\nnum-epochs = 7\nrate = 0.25\nfast = true\n# a comment\n");
  Program p;
  ASSERT_TRUE(p.parse({"-c", file.path(), "-n", "2"}));
  EXPECT_EQ(p.train, "here");
  EXPECT_EQ(p.epochs, 2);
  EXPECT_EQ(p.rate, 0.25);
  EXPECT_TRUE(p.fast);
}

TEST(Parser, the_command_line_turns_off_what_the_file_turns_on) {
  const File file("train = here\nfast = yes\n");
  for (const char* off : {"--fast=false", "--fast=no", "--fast=0"}) {
    Program p;
    ASSERT_TRUE(p.parse({"-c", file.path(), off}));
    EXPECT_FALSE(p.fast) << off;
    EXPECT_EQ(p.parser.as_used()[4].value, "false");
  }
  const File turns_off("train = here\nfast = off\n");
  Program p;
  ASSERT_TRUE(p.parse({"-c", turns_off.path(), "--fast"}));
  EXPECT_TRUE(p.fast);
  EXPECT_THAT(Program().error({"--train", "x", "--fast=maybe"}),
              HasSubstr("--fast is 'maybe', but must be true or false"));
}

TEST(Parser, files_have_comments_quotes_and_lists) {
  const File file(
      "\xEF\xBB\xBFtrain = \"a b # c\"  \r\n; a comment\n  # another\nrate=0.25 # rather slow\n\n"
      "image = dir#1/x.tif\nimage = 'y y.tif'\n");
  Program p;
  ASSERT_TRUE(p.parse({"-c", file.path()}));
  EXPECT_EQ(p.train, "a b # c");
  EXPECT_EQ(p.rate, 0.25);
  EXPECT_EQ(p.images, (std::vector<std::string>{"dir#1/x.tif", "y y.tif"}));
}

TEST(Parser, a_line_of_a_file_has_as_many_values_as_its_option_takes) {
  const File file(
      "train = a b/c # here\nimage = a.tif\tb#.tif 'c d.tif'  \"e f.tif\" #g.tif\nimage = h.tif\n");
  Program p;
  ASSERT_TRUE(p.parse({"-c", file.path()}));
  EXPECT_EQ(p.train, "a b/c");
  EXPECT_THAT(p.images, testing::ElementsAre("a.tif", "b#.tif", "c d.tif", "e f.tif", "h.tif"));
  const File two("train = 'a' b\n");
  EXPECT_THAT(Program().error({"-c", two.path()}), HasSubstr("more than once"));
}

TEST(Parser, what_is_no_line_of_a_file_is_named_with_its_number) {
  for (const char* line : {"train: here", "[section]", "[a = b]", "= here", "words"}) {
    const File file(std::string("num_epochs = 3\n") + line + "\n");
    Program p;
    const std::string error = p.error({"-c", file.path()});
    EXPECT_THAT(error, HasSubstr("line 2, '" + std::string(line) + "', is no `name = value`"));
  }
  const File twice("train = here\ntrain = there\n");
  EXPECT_THAT(Program().error({"-c", twice.path()}), HasSubstr("more than once"));
}

TEST(Parser, a_wrong_number_is_named_with_the_file_that_gave_it) {
  const File file("train = here\nnum_epochs = many\nrate = 0.25\n");
  EXPECT_EQ(Program().error({"-c", file.path()}),
            "--num_epochs is 'many' (in '" + std::string(file.path()) +
                "'), but must be a whole number of at most 64 bits");
  EXPECT_EQ(Program().error({"-c", file.path(), "-n", "3", "--rate", "none"}),
            "--rate is 'none', but must be a finite number");
}

TEST(Parser, an_unknown_name_in_the_file_is_named_with_the_file) {
  const File file("trian = here\n");
  Program p;
  const std::string error = p.error({"-c", file.path()});
  EXPECT_THAT(error, HasSubstr("trian"));
  EXPECT_THAT(error, HasSubstr(file.path()));
  EXPECT_THAT(error, HasSubstr("--train"));
}

TEST(Parser, errors_say_what_was_given_and_what_is_meant) {
  EXPECT_THAT(Program().error({"--train", "x", "--num_epoch", "3"}),
              HasSubstr("did you mean --num_epochs?"));
  for (const char* none : {"many", "3.5", "", "9223372036854775808", "1 ", "+-3"}) {
    EXPECT_EQ(Program().error({"--train", "x", "-n", none}),
              "--num_epochs is '" + std::string(none) +
                  "', but must be a whole number of at most 64 bits");
  }
  for (const char* none : {"quick", "nan", "inf", "1e999", "0,5"}) {
    EXPECT_EQ(Program().error({"--train", "x", "--rate", none}),
              "--rate is '" + std::string(none) + "', but must be a finite number");
  }
  EXPECT_THAT(Program().error({"--train", "x", "--kind", "c"}),
              HasSubstr("must be one of a and b"));
  EXPECT_THAT(Program().error({"--kind", "b"}), HasSubstr("--train is missing"));
  EXPECT_THAT(Program().error({"--train", "x", "word"}), HasSubstr("'word' belongs to no option"));
  EXPECT_THAT(Program().error({"--train", "x", "--train", "y"}), HasSubstr("train"));
}

TEST(Parser, folders_with_and_without_a_slash_are_one) {
  for (const auto& [given, used] : {std::pair("a/b//", "a/b"), {"/", "/"}, {"a b", "a b"}}) {
    Program p;
    ASSERT_TRUE(p.parse({"--train", given}));
    EXPECT_EQ(p.train, Path(used));
  }
}

TEST(Parser, as_used_lists_every_option_with_its_value) {
  Program p;
  ASSERT_TRUE(p.parse({"--train", "x", "--rate", "5e-4"}));
  const Settings used = p.parser.as_used();
  EXPECT_THAT(used, testing::ElementsAre(Setting("train", "x"), Setting("num_epochs", 10),
                                         Setting("rate", 0.0005), Setting("image", ""),
                                         Setting("fast", "false"), Setting("kind", "a")));
  EXPECT_EQ(used[0].type, Setting::Type::kText);
  EXPECT_EQ(used[1].type, Setting::Type::kInteger);
  EXPECT_EQ(used[2].type, Setting::Type::kReal);
  EXPECT_TRUE(p.parser.is_given("rate"));
  EXPECT_FALSE(p.parser.is_given("num_epochs"));
}

TEST(Parser, help_and_version_answer_and_end) {
  EXPECT_FALSE(Program().parse({"--help"}));
  EXPECT_FALSE(Program().parse({"--nonsense", "--version"}));
}

}  // namespace
}  // namespace quadrat::cli
