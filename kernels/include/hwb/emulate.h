// Runs entries of kernels from files: how tests call a kernel that was compiled for the CPU (tests/emulated_kernels.py).
//
// job:    int32 number of the entry, act, grid x, y, z, block x, y, z, count of arguments, then the arguments in order:
//         int32 kind (0 bytes in, 1 int32, 2 bytes out), int32 value (size in bytes, or the integer), the bytes if any.
// result: the bytes of the output.
// Every array lies alone on the heap, so that AddressSanitizer sees a byte read behind its end.
#pragma once
#include "hwb/types.cuh"

namespace hwb::cpu {

inline int act = 0;  // HWB_ACT of the emulated entries

struct Argument {
  int32_t kind = 0, value = 0;
  std::unique_ptr<unsigned char[]> bytes;
};

class Job {
 public:
  dim3 grid, threads;
  int32_t entry = 0;
  std::vector<Argument> arguments;

  explicit Job(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (!file) fail("no such job: ", path);
    const auto integer = [&] {
      int32_t v = 0;
      if (std::fread(&v, 4, 1, file) != 1) fail("a job ends too early: ", path);
      return v;
    };
    entry = integer();
    act = integer();
    unsigned sizes[6];
    for (unsigned& each : sizes) each = unsigned(integer());
    grid = dim3(sizes[0], sizes[1], sizes[2]);
    threads = dim3(sizes[3], sizes[4], sizes[5]);
    arguments.resize(size_t(integer()));
    for (Argument& each : arguments) {
      each.kind = integer();
      each.value = integer();
      if (each.kind == 1) continue;
      each.bytes.reset(new unsigned char[size_t(each.value)]);
      if (each.kind == 2) std::memset(each.bytes.get(), 0xff, size_t(each.value));
      else if (std::fread(each.bytes.get(), 1, size_t(each.value), file) != size_t(each.value)) fail("a job ends too early: ", path);
    }
    std::fclose(file);
  }

  void write(const char* path) const {
    std::FILE* file = std::fopen(path, "wb");
    if (!file) fail("cannot write ", path);
    for (const Argument& each : arguments)
      if (each.kind == 2) std::fwrite(each.bytes.get(), 1, size_t(each.value), file);
    std::fclose(file);
  }
};

template <class T>
T decode(const Argument& argument) {
  constexpr int32_t kind = std::is_same_v<T, int> ? 1 : std::is_same_v<T, void*> ? 2 : 0;
  if (argument.kind != kind) fail("an argument of the job is not of the kind that the entry takes");
  if constexpr (kind == 1) return argument.value;
  else return argument.bytes.get();
}

template <class... Parameters, size_t... I>
void call(const Job& job, void (*kernel)(Parameters...), std::index_sequence<I...>) {
  if (job.arguments.size() != sizeof...(Parameters)) fail("the entry takes another number of arguments than the job has");
  launch(job.grid, job.threads, kernel, decode<Parameters>(job.arguments[I])...);
}

template <class... Parameters>
void call(const Job& job, void (*kernel)(Parameters...)) { call(job, kernel, std::index_sequence_for<Parameters...>{}); }

}  // namespace hwb::cpu
