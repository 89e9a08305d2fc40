// Products of a few samples with a matrix of their own, as a served user's are: too small for a library's to pay off.

#include "parallel.h"

namespace metacsr {
namespace {

constexpr int64_t kRows = 32;   // of a matrix in a chunk
constexpr int64_t kTile = 128;  // columns summed in registers

// out[k, f] = x[k] . matrix[f]
ffi::Error TimesTransposed(ffi::ThreadPool pool, Floats x, Floats matrix, Result out) {
  const int64_t samples = Axis(x, 2), columns = Axis(x, 1), rows = Axis(matrix, 2);
  const Batch batch(*out, 2);
  const auto x_of = batch.Parts(x), matrix_of = batch.Parts(matrix);
  ForEach(pool, batch.count() * rows, kRows, [&](int64_t row) {
    const int64_t entry = row / rows, f = row % rows;
    const float* m = matrix.typed_data() + (matrix_of[entry] * rows + f) * columns;
    const float* from = x.typed_data() + x_of[entry] * samples * columns;
    float* to = out->typed_data() + entry * samples * rows + f;
    for (int64_t k = 0; k < samples; ++k, from += columns) {
      float sum = 0;
      for (int64_t o = 0; o < columns; ++o) sum += from[o] * m[o];
      to[k * rows] = sum;
    }
  });
  return ffi::Error::Success();
}

// Writes `width` columns of sum_k x[k] y[k]; x are `stride` apart, y `columns`.
template <int64_t kWidth>
inline void SumOuter(const float* x, int64_t stride, const float* y, int64_t columns, int64_t samples, int64_t width, float* to) {
  float sum[kTile] = {};
  const int64_t wide = kWidth ? kWidth : width;
  for (int64_t k = 0; k < samples; ++k) {
    const float weight = x[k * stride];
    METACSR_VECTORISE
    for (int64_t o = 0; o < wide; ++o) sum[o] += weight * y[k * columns + o];
  }
  std::copy(sum, sum + wide, to);
}

// out[f, o] = sum_k x[k, f] y[k, o]
ffi::Error SumOfOuter(ffi::ThreadPool pool, Floats x, Floats y, Result out) {
  const int64_t samples = Axis(x, 2), rows = Axis(x, 1), columns = Axis(y, 1);
  const Batch batch(*out, 2);
  const auto x_of = batch.Parts(x), y_of = batch.Parts(y);
  ForEach(pool, batch.count() * rows, kRows, [&](int64_t row) {
    const int64_t entry = row / rows, f = row % rows;
    const float* left = x.typed_data() + x_of[entry] * samples * rows + f;
    const float* right = y.typed_data() + y_of[entry] * samples * columns;
    float* to = out->typed_data() + (entry * rows + f) * columns;
    for (int64_t o = 0; o < columns; o += kTile) {
      const int64_t width = std::min(kTile, columns - o);
      if (width == kTile) {
        SumOuter<kTile>(left, rows, right + o, columns, samples, width, to + o);
      } else {
        SumOuter<0>(left, rows, right + o, columns, samples, width, to + o);
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_TimesTransposed, TimesTransposed,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_SumOfOuter, SumOfOuter,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());

}  // namespace metacsr
