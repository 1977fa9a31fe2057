#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <thread>

#include "quadrat/base/bf16.h"
#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/files.h"
#include "quadrat/base/folder_lock.h"
#include "quadrat/base/parallel.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"

namespace quadrat {
namespace {

using testing::HasSubstr;

class Folder : public testing::Test {
 protected:
  Folder() {
    std::string name = "/tmp/quadrat-test-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~Folder() override { std::filesystem::remove_all(path_); }
  std::string content(const Path& path) const {
    const Bytes bytes = read_file(path);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }
  Path path_;
};

/// A process that holds the lock for some seconds, or until it is killed. Returns once it does.
pid_t holder_of(const Path& folder, unsigned seconds) {
  const pid_t child = ::fork();
  if (child == 0) {
    FolderLock lock;
    lock.take(folder, "use", "wait");
    std::ofstream(folder / "held");
    ::sleep(seconds);
    ::_exit(0);  // as a kill: nothing is cleaned up
  }
  while (!std::filesystem::exists(folder / "held")) ::usleep(1000);
  return child;
}

TEST_F(Folder, is_left_to_the_next_process_by_one_that_dies) {
  const pid_t child = holder_of(path_, 1);
  {
    FolderLock lock;
    const auto before = std::chrono::steady_clock::now();
    lock.take(path_, "use", "wait");
    EXPECT_GT(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(500));
    EXPECT_EQ(content(path_ / ".lock").find("process "), 0U);
  }
  EXPECT_EQ(files(), 1U) << "the lock's file goes with the lock";
  ::waitpid(child, nullptr, 0);
}

TEST_F(Folder, that_another_process_holds_is_refused_by_its_name) {
  const pid_t child = holder_of(path_, 600);
  FolderLock lock;
  try {
    lock.take(path_, "use", "wait");
    FAIL() << "two hold it";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("in use by process " + std::to_string(child) + " on "));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_F(Folder, that_is_waited_for_is_no_error_when_a_signal_ends_the_waiting) {
  const pid_t child = holder_of(path_, 600);
  set_stop_signal(SIGTERM);
  FolderLock lock;
  try {
    lock.take(path_, "use", "wait");
    FAIL() << "two hold it";
  } catch (const Error& error) {
    EXPECT_EQ(exit_status(error.kind()), kExitInterrupted);
    EXPECT_THAT(error.what(), HasSubstr("stopped by a signal while it was in use by process "));
  }
  set_stop_signal(0);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST(ForEachIndex, does_each_once_and_tells_of_the_first_that_fails) {
  for (const std::size_t threads : {1U, 3U, 100U}) {
    std::vector<int> done(50);
    for_each_index(done.size(), threads, [&](std::size_t i, std::size_t worker) {
      EXPECT_LT(worker, std::min(threads, done.size()));
      ++done[i];
    });
    EXPECT_THAT(done, testing::Each(1));
    std::atomic<int> begun = 0;
    try {
      for_each_index(50, threads, [&](std::size_t i, std::size_t) {
        ++begun;
        if (i >= 20) throw std::runtime_error(std::to_string(i));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "20");
    }
    // The others may have begun one each by then.
    EXPECT_LE(begun, 20 + static_cast<int>(threads));
  }
}

TEST(Error, names_action_object_finding_and_remedy) {
  const InputError error("read tile", "a.png", "it is 3 px", "cut it again");
  EXPECT_STREQ(error.what(), "cannot read tile 'a.png': it is 3 px; cut it again");
  EXPECT_EQ(exit_status(error.kind()), 2);
  EXPECT_EQ(exit_status(UsageError("x").kind()), 1);
}

TEST(Error, from_errno_tells_what_to_do_about_a_full_disk) {
  errno = ENOSPC;
  EXPECT_THAT(IoError::from_errno("write", "run.h5").what(), HasSubstr("free some space"));
}

TEST(Error, of_libraries_are_told_in_one_line) {
  EXPECT_EQ(message_of(std::runtime_error("no such thing\nframe #0: 0x1234")), "no such thing");
  EXPECT_EQ(message_of(InputError("read", "a\nb", "it is odd")), "cannot read 'a\nb': it is odd");
  EXPECT_THAT(message_of(std::bad_alloc()), testing::StartsWith("out of memory; "));
  EXPECT_THAT(message_of(std::runtime_error("[enforce fail at alloc_cpu.cpp:121] data. "
                                            "DefaultCPUAllocator: not enough memory")),
              testing::StartsWith("out of memory; "));
}

TEST(Error, from_errno_blames_the_file_for_nothing_but_what_is_the_files) {
  const auto is_of_storage = [](int code) {
    errno = code;
    return IoError::from_errno("read", "tile.png").is_of_storage();
  };
  for (const int code : {ENOENT, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG, EACCES, EPERM})
    EXPECT_FALSE(is_of_storage(code)) << std::strerror(code);
  for (const int code : {EIO, ESTALE, ETIMEDOUT, ENXIO, EMFILE, ENFILE, ENOMEM, ENOTCONN, ESHUTDOWN,
                         EHOSTDOWN, EHOSTUNREACH, EKEYEXPIRED, EREMOTEIO})
    EXPECT_TRUE(is_of_storage(code)) << std::strerror(code);
}

TEST_F(Folder, replace_file_keeps_the_old_content_when_writing_throws) {
  const Path file = path_ / "a.txt";
  write_file(file, "old");
  EXPECT_THROW(replace_file(file,
                            [](const Path& temporary) {
                              std::ofstream(temporary) << "half";
                              throw IoError("write", "a.txt", "disk full");
                            }),
               IoError);
  EXPECT_EQ(content(file), "old");
  EXPECT_EQ(files(), 1U);
}

TEST_F(Folder, replace_file_replaces_whole) {
  const Path file = path_ / "a.txt";
  write_file(file, "a long first content");
  write_file(file, "new");
  EXPECT_EQ(content(file), "new");
  EXPECT_EQ(files(), 1U);
}

TEST_F(Folder, read_file_refuses_folders_absent_files_and_large_ones) {
  EXPECT_THROW(read_file(path_), Error);
  EXPECT_THROW(read_file(path_ / "none"), IoError);
  write_file(path_ / "b", "12345");
  EXPECT_THROW(read_file(path_ / "b", 4), InputError);
  EXPECT_EQ(read_file(path_ / "b", 5).size(), 5U);
  ASSERT_EQ(::mkfifo((path_ / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(read_file(path_ / "pipe"), InputError) << "and is not waited for";
}

TEST_F(Folder, stale_temporaries_go_and_other_files_stay) {
  write_file(path_ / "run.h5", "x");
  std::ofstream(path_ / ".run.h5.tmp.host.1") << "half";
  std::ofstream(temporary_beside(path_ / "run.h5")) << "half";
  std::ofstream(path_ / ".hidden") << "mine";
  remove_stale_temporaries(path_, 3600);
  EXPECT_EQ(files(), 4U);
  remove_stale_temporaries(path_);
  EXPECT_EQ(files(), 2U);
  EXPECT_TRUE(std::filesystem::exists(path_ / "run.h5"));
  EXPECT_TRUE(std::filesystem::exists(path_ / ".hidden"));
  EXPECT_FALSE(std::filesystem::exists(path_ / ".run.h5.tmp.host.1"));
}

TEST_F(Folder, temporaries_of_hosts_and_processes_differ) {
  EXPECT_EQ(temporary_beside(path_ / "a.tif"),
            path_ / fmt::format(".a.tif.tmp.{}.{}", host_name(), ::getpid()));
  EXPECT_EQ(temporary_beside("a.tif").parent_path(), ".");
}

TEST_F(Folder, what_is_put_in_place_leaves_no_temporary) {
  const Path file = path_ / "a.txt";
  const Path temporary = temporary_beside(file);
  std::ofstream(temporary) << "new";
  put_in_place(temporary, file);
  EXPECT_EQ(content(file), "new");
  make_folder(path_ / "folder" / "of files");
  std::ofstream(temporary) << "new";
  EXPECT_THROW(put_in_place(temporary, path_ / "folder"), IoError);
  EXPECT_EQ(files(), 2U);
}

TEST_F(Folder, make_folder_says_when_a_file_is_in_the_way) {
  write_file(path_ / "f", "x");
  EXPECT_THROW(make_folder(path_ / "f"), InputError);
  EXPECT_NO_THROW(make_folder(path_ / "a" / "b"));
  EXPECT_NO_THROW(make_folder(path_ / "a" / "b"));
}

TEST(KeyedRandom, is_a_function_of_its_key_and_of_every_part_of_it) {
  EXPECT_EQ(KeyedRandom({1, 2, 3}).next(), KeyedRandom({1, 2, 3}).next());
  std::set<std::uint64_t> seen;
  for (std::uint64_t a = 0; a < 10; ++a) {
    for (std::uint64_t b = 0; b < 10; ++b) seen.insert(KeyedRandom({a, b}).next());
  }
  EXPECT_EQ(seen.size(), 100U);
}

TEST(KeyedRandom, below_covers_its_range_evenly) {
  KeyedRandom random({7});
  std::array<int, 8> count{};
  constexpr int kDraws = 80000;
  for (int i = 0; i < kDraws; ++i) ++count.at(random.below(8));
  // Binomial with p = 1/8: six standard deviations either side.
  const double sd = std::sqrt(kDraws * (1.0 / 8) * (7.0 / 8));
  for (const int n : count) EXPECT_NEAR(n, kDraws / 8, 6 * sd);
}

TEST(KeyedRandom, shuffle_is_a_permutation_that_never_changes) {
  std::vector<int> items{0, 1, 2, 3, 4, 5, 6, 7};
  KeyedRandom random({42});
  shuffle(items, random);
  // Runs are compared across machines and releases: this order is part of what a seed means.
  const std::vector<int> first = items;
  std::vector<int> again{0, 1, 2, 3, 4, 5, 6, 7};
  KeyedRandom same({42});
  shuffle(again, same);
  EXPECT_EQ(first, again);
  EXPECT_THAT(items, testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_NE(items, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(Text, numbers_are_whole_texts_that_fit) {
  std::int32_t whole = 0;
  EXPECT_TRUE(parse_number("-2147483648", whole));
  EXPECT_EQ(whole, std::numeric_limits<std::int32_t>::min());
  for (const char* none : {"", "2147483648", "1 ", " 1", "+1", "1.5", "1x", "0x10"})
    EXPECT_FALSE(parse_number(none, whole)) << none;
  std::uint32_t hex = 0;
  EXPECT_TRUE(parse_number("ffffFFFF", hex, 16));
  EXPECT_EQ(hex, 0xffffffffU);
  EXPECT_FALSE(parse_number("-1", hex));
  double real = 0;
  EXPECT_TRUE(parse_number("-2.5e-3", real));
  EXPECT_EQ(real, -2.5e-3);
  EXPECT_FALSE(parse_number("1,5", real));
}

TEST(Text, plain_names) {
  EXPECT_TRUE(is_plain_name("Forest-2_b"));
  for (const char* bad : {"", "a b", "a/b", "..", "é", "a.b", "a\n"})
    EXPECT_FALSE(is_plain_name(bad)) << bad;
}

TEST(Text, closest_proposes_near_names_only) {
  const std::vector<std::string> names{"num_epochs", "runs"};
  EXPECT_EQ(closest("num_epoch", names), "num_epochs");
  EXPECT_EQ(closest("xyz", names), "");
}

TEST(Text, csv_fields_are_quoted_where_needed) {
  EXPECT_EQ(csv_field("a.png"), "a.png");
  EXPECT_EQ(csv_field("a,\"b\".png"), "\"a,\"\"b\"\".png\"");
}

TEST(Text, bytes_that_are_not_utf8_stay_distinct) {
  EXPECT_EQ(as_utf8("Qu\u00E9bec \u20AC \U0001F5FA \n"), "Qu\u00E9bec \u20AC \U0001F5FA \n");
  EXPECT_EQ(as_utf8("Qu\xE9"
                    "bec"),
            "Qu\\xe9bec");
  EXPECT_EQ(as_utf8("cut short \xE2\x82"), "cut short \\xe2\\x82");
  // Longer than needed, a surrogate, beyond the last character: what JSON does not take either.
  EXPECT_EQ(as_utf8("\xC0\x80"), "\\xc0\\x80");
  EXPECT_EQ(as_utf8("\xE0\x80\x80"), "\\xe0\\x80\\x80");
  EXPECT_EQ(as_utf8("\xED\xA0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(as_utf8("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
}

TEST(Text, unprintable_bytes_are_shown_not_sent) {
  EXPECT_EQ(printable("a\x1b[2Jb"), "a\\x1b[2Jb");
}

TEST(Bf16, narrows_to_the_nearest_and_ties_to_even) {
  EXPECT_EQ(bf16::narrow(1.0F), 0x3F80);
  EXPECT_EQ(bf16::narrow(1.0F + 0x1p-8F), 0x3F80);             // a tie, to even
  EXPECT_EQ(bf16::narrow(1.0F + 0x1p-8F + 0x1p-20F), 0x3F81);  // above it
  EXPECT_EQ(bf16::narrow(1.0F + 3 * 0x1p-8F), 0x3F82);         // a tie, to even
}

TEST(Progress, durations_read_naturally) {
  EXPECT_EQ(format_duration(0.44), "0.4 s");
  EXPECT_EQ(format_duration(59.6), "1 min 00 s");
  EXPECT_EQ(format_duration(3600 + 5 * 60), "1 h 05 min");
}

TEST(Signals, set_a_flag_and_interrupt_no_thread_that_works) {
  catch_stop_signals();
  ASSERT_EQ(stop_signal(), 0);
  ::kill(::getpid(), SIGUSR1);
  const auto begin = Clock::now();
  while (stop_signal() == 0 && seconds_since(begin) < 10) std::this_thread::yield();
  EXPECT_EQ(stop_signal(), SIGUSR1);
  set_stop_signal(0);
  const auto blocked = [] {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return sigismember(&mask, SIGUSR1) == 1 && sigismember(&mask, SIGTERM) == 1 &&
           sigismember(&mask, SIGINT) == 1;
  };
  EXPECT_TRUE(blocked());
  bool is_blocked_in_other = false;
  std::thread([&] { is_blocked_in_other = blocked(); }).join();
  EXPECT_TRUE(is_blocked_in_other);
}

}  // namespace
}  // namespace quadrat
