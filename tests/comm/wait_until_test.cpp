#include "comm/backend/wait_until.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace quadrat::comm {
namespace {

TEST(WaitUntil, asks_for_failures_as_long_as_it_waits) {
  int asked = 0, checked = 0;
  wait_until([&] { return ++asked == 100; }, [&] { ++checked; });
  EXPECT_EQ(asked, 100);
  EXPECT_EQ(checked, 99);
}

TEST(WaitUntil, a_failure_ends_the_waiting) {
  int checked = 0;
  const auto fail_later = [&] {
    if (++checked == 200) throw std::runtime_error("a rank is gone");
  };
  EXPECT_THROW(wait_until([] { return false; }, fail_later), std::runtime_error);
  EXPECT_EQ(checked, 200);
}

TEST(WaitUntil, what_is_done_already_is_not_checked) {
  wait_until([] { return true; }, [] { FAIL(); });
}

}  // namespace
}  // namespace quadrat::comm
