// Writes small seeds for fuzz_weights into a folder: each format, several types, metadata, a
// wrapped state dict.
#include <cstdio>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/weights/weights_file.h"

int main(int argc, char** argv) {
  using namespace quadrat;
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_seeds FOLDER\n");
    return 1;
  }
  const Path folder = argv[1];
  make_folder(folder);
  WeightsFile weights;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI64, DType::kBool}) {
    StoredTensor tensor{"layer." + std::string(to_string(dtype)), dtype, {2, 3}, {}};
    tensor.data.resize(6 * bytes_per_element(dtype), std::byte{1});
    weights.tensors.push_back(tensor);
  }
  write_torch_zip(folder / "state.pth", weights);
  weights.metadata = {{"architecture", "resnet18"}, {"classes", "[\"a\", \"b\"]"}};
  write_safetensors(folder / "state.safetensors", weights);

  // A tensor without bytes whose other sides overflow.
  using namespace std::string_literals;
  const std::string header =
      R"({"w":{"dtype":"F32","shape":[9223372036854775807,3,0],"data_offsets":[0,0]}})";
  write_file(folder / "empty.safetensors",
             static_cast<char>(header.size()) + "\0\0\0\0\0\0\0"s + header);

  // torch.save's older format, by hand: {"w": two floats at offset 1 of three}, protocol 2.
  write_file(
      folder / "older.pth",
      "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00."s
      "\x80\x02"
      "ccollections\nOrderedDict\nq\x00)Rq\x01X\x01\0\0\0wq\x02"
      "ctorch._utils\n_rebuild_tensor_v2\nq\x03"
      "((X\x07\0\0\0storageq\x04"
      "ctorch\nFloatStorage\nq\x05X\x02\0\0\0k7q\x06X\x03\0\0\0cpuq\x07K\x03Ntq\x08QK\x01"
      "K\x02\x85q\x09K\x01\x85q\x0a\x89h\x00)Rq\x0btq\x0cRq\x0ds}q\x0eX\x09\0\0\0_metadataq\x0fh\x00)Rq\x10sb."s
      "\x80\x02]q\x00X\x02\0\0\0k7q\x01"
      "a.\x03\0\0\0\0\0\0\0"
      "abcdefghijkl"s);
}
