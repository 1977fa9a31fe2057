#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "quadrat/base/files.h"

namespace quadrat::test {

/// Gives each test an empty folder of its own, `folder_`, and removes it afterwards.
class InFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = Path(::testing::TempDir()) / (std::string(info->test_suite_name()) + "_" +
                                            info->name() + "_" + std::to_string(::getpid()));
    make_folder(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Path folder_;
};

}  // namespace quadrat::test
