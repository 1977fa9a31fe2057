// Runs a fuzz target where there is no libFuzzer: every file of the seed folders as it is, then
// mutations of them for some seconds. The mutations are a function of the seed, so a failure can be
// had again.
//
//   fuzz_png [--seconds S] [--seed N] [--max_bytes N] FOLDER|FILE...
//
// A crash leaves the input in crash-input beside the working folder; give that file to see it
// again.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

/// What the target may do to a mutated input to get past its checksums; targets without checksums
/// leave it empty.
void repair(std::vector<std::uint8_t>& input);

namespace {

using Input = std::vector<std::uint8_t>;

const Input* current = nullptr;

void keep_input() {
  const int file = ::open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  if (current != nullptr && ::write(file, current->data(), current->size()) < 0)
    std::perror("crash-input");
  ::close(file);
}

extern "C" void on_fault(int signal) {
  keep_input();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run_one(const Input& input) {
  current = &input;
  // A copy of exactly this size, so that the sanitizer sees a read one byte past it.
  const Input exact(input.begin(), input.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  current = nullptr;
}

std::vector<Input> read_seeds(const std::vector<std::string>& paths, std::size_t max_bytes) {
  std::vector<std::filesystem::path> files;
  for (const std::string& path : paths) {
    if (std::filesystem::is_directory(path)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
        if (entry.is_regular_file()) files.push_back(entry.path());
      }
    } else {
      files.emplace_back(path);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Input> seeds;
  for (const auto& path : files) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "cannot read %s\n", path.c_str());
      std::exit(1);
    }
    Input input((std::istreambuf_iterator<char>(stream)), {});
    if (input.size() <= max_bytes) seeds.push_back(std::move(input));
  }
  return seeds;
}

class Mutator {
 public:
  Mutator(const std::vector<Input>& seeds, std::uint64_t seed) : seeds_(seeds), random_(seed) {}

  Input next() {
    Input input = seeds_[below(seeds_.size())];
    const std::size_t changes = std::size_t{1} << below(5);
    for (std::size_t i = 0; i < changes; ++i) change(input);
    if (below(4) != 0) repair(input);
    return input;
  }

 private:
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  void change(Input& input) {
    if (input.empty()) {
      input.push_back(static_cast<std::uint8_t>(random_()));
      return;
    }
    const std::size_t at = below(input.size());
    const auto place = [&](std::size_t where) {
      return input.begin() + static_cast<std::ptrdiff_t>(where);
    };
    switch (below(8)) {
      case 0:
        input[at] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 1:
        input[at] = static_cast<std::uint8_t>(random_());
        break;
      case 2: {  // a number at the edge of something
        static constexpr std::uint8_t kEdges[] = {0, 1, 0x7f, 0x80, 0xff};
        const std::size_t width = std::size_t{1} << below(4);
        const std::uint8_t edge = kEdges[below(5)];
        for (std::size_t i = at; i < std::min(at + width, input.size()); ++i) input[i] = edge;
        break;
      }
      case 3:
        input.erase(place(at), place(at + below(std::min<std::size_t>(input.size() - at, 64)) + 1));
        break;
      case 4: {  // a stretch repeated
        const std::size_t bytes = below(std::min<std::size_t>(input.size() - at, 64)) + 1;
        const Input copy(place(at), place(at + bytes));
        input.insert(place(below(input.size())), copy.begin(), copy.end());
        break;
      }
      case 5: {  // a stretch of another seed
        const Input& other = seeds_[below(seeds_.size())];
        if (other.empty()) break;
        const std::size_t from = below(other.size());
        const std::size_t bytes = below(std::min<std::size_t>(other.size() - from, 256)) + 1;
        const auto begin = other.begin() + static_cast<std::ptrdiff_t>(from);
        input.insert(place(at), begin, begin + static_cast<std::ptrdiff_t>(bytes));
        break;
      }
      case 6:
        input[at] = static_cast<std::uint8_t>(input[at] + below(9) - 4);
        break;
      default:
        if (below(8) == 0) input.resize(at);
        break;
    }
  }

  const std::vector<Input>& seeds_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  double seconds = 10;
  std::uint64_t seed = 1;
  std::size_t max_bytes = std::size_t{1} << 20;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] { return i + 1 < argc ? argv[++i] : "0"; };
    if (word == "--seconds") {
      seconds = std::atof(value());
    } else if (word == "--seed") {
      seed = std::strtoull(value(), nullptr, 10);
    } else if (word == "--max_bytes") {
      max_bytes = std::strtoull(value(), nullptr, 10);
    } else {
      paths.push_back(word);
    }
  }
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_fault);
  std::set_terminate([] { std::abort(); });

  const std::vector<Input> seeds = read_seeds(paths, max_bytes);
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds: name folders or files\n");
    return 1;
  }
  for (const Input& input : seeds) run_one(input);

  Mutator mutator(seeds, seed);
  std::uint64_t runs = 0;
  const auto start = std::chrono::steady_clock::now();
  const std::chrono::duration<double> limit(seconds);
  while (std::chrono::steady_clock::now() - start < limit) {
    run_one(mutator.next());
    ++runs;
  }
  std::printf("%zu seeds, %llu mutations, no fault\n", seeds.size(),
              static_cast<unsigned long long>(runs));
}
