#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

namespace quadrat {

/// What the caller can do about an error, which is also the program's exit status (see
/// exit_status).
enum class ErrorKind {
  kUsage,   ///< the command line or the configuration file is wrong: exit 1
  kInput,   ///< a file or folder the user named is not what it should be: exit 2
  kIo,      ///< the operating system refused: no space, no permission, a vanished server: exit 2
  kComm,    ///< MPI or NCCL failed, or another rank did: exit 2
  kDevice,  ///< the GPU or its library failed: exit 2
  kInterrupted,  ///< a signal asked to stop: exit 75
};

/// One line that says what was being done, to what, what was found instead of what was expected,
/// and what to do.
///
/// Thrown for faults of the user or the surroundings. A fault of our own is an assertion.
class Error : public std::runtime_error {
 public:
  /// @param action what could not be done: "read tile"
  /// @param object what it was done to, usually a path; quoted in the message, left out when empty
  /// @param finding what was found and what was expected: "it is 200x200 px, the model wants
  /// 224x224"
  /// @param remedy what the user can do; left out when empty
  Error(ErrorKind kind, std::string_view action, std::string_view object, std::string_view finding,
        std::string_view remedy = {});

  ErrorKind kind() const { return kind_; }

  /// Another rank's error, thrown on this one so that all stop together; only one rank prints it.
  static Error shared(ErrorKind kind, const std::string& message);

  /// Whether every rank throws this error (see mpi::together): then none needs to be aborted.
  bool is_shared() const { return shared_; }

 private:
  Error(ErrorKind kind, const std::string& message);

  ErrorKind kind_;
  bool shared_ = false;
};

struct UsageError : Error {
  /// Usage errors read as one sentence: "--num_epochs is 0, but must be at least 1".
  explicit UsageError(std::string_view sentence);
};

struct InputError : Error {
  InputError(std::string_view action, std::string_view object, std::string_view finding,
             std::string_view remedy = {})
      : Error(ErrorKind::kInput, action, object, finding, remedy) {}
};

struct IoError : Error {
  IoError(std::string_view action, std::string_view object, std::string_view finding,
          std::string_view remedy = {})
      : Error(ErrorKind::kIo, action, object, finding, remedy) {}

  /// The finding is errno's own text, read on entry; full disks and quotas get their remedy.
  static IoError from_errno(std::string_view action, std::string_view object);

  /// Whether it is nothing about the file: a disk or a file server failed, a ticket expired, there
  /// were too many open files. Other files fare alike, and it may pass.
  bool is_of_storage() const { return of_storage_; }

 private:
  bool of_storage_ = false;
};

struct CommError : Error {
  CommError(std::string_view action, std::string_view object, std::string_view finding,
            std::string_view remedy = {})
      : Error(ErrorKind::kComm, action, object, finding, remedy) {}
};

struct DeviceError : Error {
  DeviceError(std::string_view action, std::string_view object, std::string_view finding,
              std::string_view remedy = {})
      : Error(ErrorKind::kDevice, action, object, finding, remedy) {}
};

struct InterruptedError : Error {
  InterruptedError(std::string_view action, std::string_view object, std::string_view finding)
      : Error(ErrorKind::kInterrupted, action, object, finding,
              "start the same command again to go on") {}
};

/// Exit statuses of every program.
inline constexpr int kExitDone = 0;
inline constexpr int kExitUsage = 1;
inline constexpr int kExitFailed = 2;
inline constexpr int kExitInterrupted = 75;  ///< EX_TEMPFAIL: start the same command again to go on

int exit_status(ErrorKind kind);

/// What a user is told of any exception: an Error's line; of others' the first line, since
/// LibTorch's go on with pages of addresses; where memory ran out, what can be done about it.
std::string message_of(const std::exception& error);

}  // namespace quadrat
