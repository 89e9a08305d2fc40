// Work shared among XLA's threads, and batches whose operands may be shared too.
#ifndef METACSR_PARALLEL_H_
#define METACSR_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

// Before a loop whose arrays do not overlap: too many of them for a compiler to find out while it runs.
#if defined(__clang__)
#define METACSR_VECTORISE _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define METACSR_VECTORISE _Pragma("GCC ivdep")
#else
#define METACSR_VECTORISE
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define METACSR_ONE_COPY __attribute__((noinline, noclone))
#elif defined(__clang__)
#define METACSR_ONE_COPY __attribute__((noinline))
#else
#define METACSR_ONE_COPY
#endif

namespace metacsr {

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Ints = ffi::Buffer<ffi::S32>;
using Result = ffi::ResultBuffer<ffi::F32>;
using IntResult = ffi::ResultBuffer<ffi::S32>;

// The one compiled copy of a chunk's work. Were it inlined where the caller works and where its helpers do, the copies could round
// differently, and a result would depend on which thread made it.
template <typename Work>
METACSR_ONE_COPY void Chunk(const void* work, int64_t chunk) {
  (*static_cast<const Work*>(work))(chunk);
}

constexpr int kSpins = 2000;  // some ten or twenty us, before a thread that waits for others goes to sleep, from which it takes as long to wake

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Calls work(0) .. work(chunks - 1) and returns when all have. The caller works too and waits only for chunks that somebody has
// begun, so that a pool whose threads are all callers goes on.
template <typename Work>
void ParallelFor(ffi::ThreadPool& pool, int64_t chunks, const Work& work) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable wake;
  };
  auto shared = std::make_shared<Shared>();
  // `work` lives on the caller's stack: a thread that comes late finds no chunk and does not touch it.
  const Work* task = &work;
  auto run = [shared, chunks, task] {
    int64_t finished = 0;
    for (int64_t chunk; (chunk = shared->next.fetch_add(1)) < chunks; ++finished) Chunk<Work>(task, chunk);
    if (finished == 0) return;
    std::lock_guard<std::mutex> lock(shared->mutex);
    if ((shared->done += finished) == chunks) shared->wake.notify_all();
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), chunks) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule([run] { run(); });
  run();
  auto all_done = [&] { return shared->done.load(std::memory_order_acquire) == chunks; };
  for (int spin = 0; spin < kSpins && !all_done(); ++spin) Pause();
  if (all_done()) return;
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->wake.wait(lock, all_done);
}

// Calls work(0) .. work(count - 1), `at_a_time` of them in a chunk.
template <typename Work>
void ForEach(ffi::ThreadPool& pool, int64_t count, int64_t at_a_time, const Work& work) {
  ParallelFor(pool, (count + at_a_time - 1) / at_a_time, [&](int64_t chunk) {
    for (int64_t n = chunk * at_a_time; n < std::min(count, (chunk + 1) * at_a_time); ++n) work(n);
  });
}

// The leading axes of operands that are mapped together. An operand with one entry along an axis is the same for all of that axis.
class Batch {
 public:
  // own: how many of the axes of `like` are not leading ones; `like` has every leading axis in full.
  template <typename Buffer>
  Batch(const Buffer& like, size_t own) {
    auto dims = like.dimensions();
    sizes_.assign(dims.begin(), dims.end() - own);
    for (int64_t size : sizes_) count_ *= size;
  }

  int64_t count() const { return count_; }

  // Where the part of an operand or result begins that belongs to each entry of the batch; `own` of its axes are not leading ones.
  template <typename Buffer>
  auto Of(const Buffer& operand, size_t own) const {
    auto dims = operand.dimensions();
    std::vector<decltype(operand.typed_data())> parts(count_, operand.typed_data());
    int64_t stride = Size(dims, own), repeat = 1;  // of the operand, of the batch
    for (size_t axis = sizes_.size(); axis-- > 0;) {
      if (dims[axis] != 1) {
        for (int64_t entry = 0; entry < count_; ++entry) parts[entry] += entry / repeat % sizes_[axis] * stride;
        stride *= dims[axis];
      }
      repeat *= sizes_[axis];
    }
    return parts;
  }

 private:
  template <typename Dimensions>
  static int64_t Size(const Dimensions& dims, size_t own) {
    int64_t size = 1;
    for (size_t axis = dims.size() - own; axis < dims.size(); ++axis) size *= dims[axis];
    return size;
  }

  std::vector<int64_t> sizes_;
  int64_t count_ = 1;
};

// Axis of an operand, counted from the last one: 1 is the last.
template <typename Buffer>
int64_t Axis(const Buffer& operand, size_t from_last) {
  auto dims = operand.dimensions();
  return dims[dims.size() - from_last];
}

// An index that is out of range reads the nearest row, as XLA's gather does.
inline int64_t Clamped(int32_t index, int64_t size) {
  return std::min(std::max<int64_t>(index, 0), size - 1);
}

inline void Prefetch(const float* row, int64_t width) {
  for (int64_t d = 0; d < width; d += 16) __builtin_prefetch(row + d);
}

}  // namespace metacsr

#endif  // METACSR_PARALLEL_H_
