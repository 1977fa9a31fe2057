#include "quadrat/mpi/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/base/signals.h"

namespace quadrat::mpi {

namespace {

constexpr std::size_t kLargestPiece = std::size_t{1} << 30;  // an MPI count is an int

constexpr int kTag = 1;

int piece_size(std::size_t left) { return static_cast<int>(std::min(left, kLargestPiece)); }

}  // namespace

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw CommError(
      "exchange data with the other ranks", "", fmt::format("{} reported {}", call, text.data()),
      "see whether a node or the network between them failed, then start the same command again");
}

namespace {

void send(std::span<const std::byte> bytes, int target, MPI_Comm comm) {
  for (std::size_t at = 0; at < bytes.size();) {
    const int count = piece_size(bytes.size() - at);
    check(MPI_Send(bytes.data() + at, count, MPI_BYTE, target, kTag, comm), "MPI_Send");
    at += static_cast<std::size_t>(count);
  }
}

void receive(std::span<std::byte> bytes, int source, MPI_Comm comm) {
  for (std::size_t at = 0; at < bytes.size();) {
    const int count = piece_size(bytes.size() - at);
    check(MPI_Recv(bytes.data() + at, count, MPI_BYTE, source, kTag, comm, MPI_STATUS_IGNORE),
          "MPI_Recv");
    at += static_cast<std::size_t>(count);
  }
}

}  // namespace

Communicator::Communicator(MPI_Comm owned) : comm_(owned) {
  check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
}

Communicator Communicator::world() {
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");
  return Communicator(comm);
}

Communicator::Communicator(Communicator&& other) noexcept
    : comm_(std::exchange(other.comm_, MPI_COMM_NULL)), rank_(other.rank_), size_(other.size_) {}

Communicator& Communicator::operator=(Communicator&& other) noexcept {
  std::swap(comm_, other.comm_);
  std::swap(rank_, other.rank_);
  std::swap(size_, other.size_);
  return *this;
}

Communicator::~Communicator() {
  // Freeing is collective: while an exception unwinds one rank, the others are not here.
  if (comm_ != MPI_COMM_NULL && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

Communicator Communicator::duplicate() const {
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_dup(comm_, &comm), "MPI_Comm_dup");
  return Communicator(comm);
}

Communicator Communicator::split_by_host() const {
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &comm),
        "MPI_Comm_split_type");
  return Communicator(comm);
}

int Communicator::hosts() const {
  return static_cast<int>(sum(std::int64_t{split_by_host().is_root() ? 1 : 0}));
}

std::pair<std::size_t, std::size_t> Communicator::share_of(std::size_t count) const {
  const auto rank = static_cast<std::size_t>(rank_);
  const auto size = static_cast<std::size_t>(size_);
  return {count * rank / size, count * (rank + 1) / size};
}

void Communicator::barrier() const { check(MPI_Barrier(comm_), "MPI_Barrier"); }

Bytes Communicator::broadcast(Bytes bytes, int root) const {
  std::uint64_t size = bytes.size();
  check(MPI_Bcast(&size, 1, MPI_UINT64_T, root, comm_), "MPI_Bcast");
  bytes.resize(size);
  for (std::size_t at = 0; at < bytes.size();) {
    const int count = piece_size(bytes.size() - at);
    check(MPI_Bcast(bytes.data() + at, count, MPI_BYTE, root, comm_), "MPI_Bcast");
    at += static_cast<std::size_t>(count);
  }
  return bytes;
}

std::string Communicator::broadcast(std::string text, int root) const {
  const auto view = std::as_bytes(std::span(text));
  const Bytes bytes = broadcast(Bytes(view.begin(), view.end()), root);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void Communicator::sum(std::span<double> values) const {
  check(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE,
                      MPI_SUM, comm_),
        "MPI_Allreduce");
}

double Communicator::max(double value) const {
  check(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, comm_), "MPI_Allreduce");
  return value;
}

std::int64_t Communicator::min(std::int64_t value) const {
  check(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_MIN, comm_), "MPI_Allreduce");
  return value;
}

std::int64_t Communicator::sum(std::int64_t value) const {
  check(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_SUM, comm_), "MPI_Allreduce");
  return value;
}

std::vector<Bytes> Communicator::gather(std::span<const std::byte> mine, int root) const {
  if (rank_ != root) {
    std::uint64_t size = mine.size();
    check(MPI_Send(&size, 1, MPI_UINT64_T, root, kTag, comm_), "MPI_Send");
    send(mine, root, comm_);
    return {};
  }
  std::vector<Bytes> all(static_cast<std::size_t>(size_));
  for (int source = 0; source < size_; ++source) {
    Bytes& bytes = all[static_cast<std::size_t>(source)];
    if (source == rank_) {
      bytes.assign(mine.begin(), mine.end());
      continue;
    }
    std::uint64_t size = 0;
    check(MPI_Recv(&size, 1, MPI_UINT64_T, source, kTag, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
    bytes.resize(size);
    receive(bytes, source, comm_);
  }
  return all;
}

void Communicator::gather_parts(std::span<std::byte> bytes, std::span<const std::size_t> bounds,
                                int root) const {
  const auto part = [&](int rank) {
    const auto i = static_cast<std::size_t>(rank);
    return bytes.subspan(bounds[i], bounds[i + 1] - bounds[i]);
  };
  if (rank_ != root) return send(part(rank_), root, comm_);
  for (int source = 0; source < size_; ++source) {
    if (source != rank_) receive(part(source), source, comm_);
  }
}

void together(const Communicator& ranks, const std::function<void()>& work) {
  std::optional<std::string> message;
  auto kind = ErrorKind::kInput;
  try {
    work();
  } catch (const Error& error) {
    message = error.what();
    kind = error.kind();
  } catch (const std::exception& error) {
    message = message_of(error);
    kind = ErrorKind::kIo;
  }
  constexpr std::int64_t kNobody = std::numeric_limits<std::int64_t>::max();
  const std::int64_t failed = ranks.min(message ? ranks.rank() : kNobody);
  if (failed == kNobody) return;
  const int source = static_cast<int>(failed);
  std::string text;
  if (ranks.rank() == source)
    text = fmt::format("{}{}", static_cast<char>('0' + static_cast<int>(kind)), *message);
  text = ranks.broadcast(std::move(text), source);
  throw Error::shared(static_cast<ErrorKind>(text.at(0) - '0'), text.substr(1));
}

bool any_asked_to_stop(const Communicator& ranks) { return ranks.max(stop_signal()) != 0; }

void stop_if_asked(const Communicator& ranks) {
  if (any_asked_to_stop(ranks)) throw Error::shared(ErrorKind::kInterrupted, "stopped by a signal");
}

}  // namespace quadrat::mpi
