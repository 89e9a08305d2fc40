// Rows of a table that lists of indices name: products with a vector, weighted sums, and what such sums add to the table.
//
// XLA copies the rows first (512 bytes a row, each read once) and adds to them one after another on a single thread. Here they are read
// where they are.

#include "parallel.h"

namespace metacsr {
namespace {

constexpr int64_t kAhead = 4;   // rows fetched before they are used
constexpr int64_t kTile = 128;  // features summed in registers
constexpr int64_t kRows = 128;  // rows of the table in a chunk
constexpr int64_t kLists = 16;  // lists of indices in a chunk

// out[b, n] = table[index[b, n]] . vector[b]
ffi::Error RowDot(ffi::ThreadPool pool, Floats table, Floats vector, Ints index, Result out) {
  const int64_t rows = Axis(table, 2), width = Axis(table, 1), lists = Axis(*out, 2), length = Axis(*out, 1);
  const Batch batch(*out, 2);
  const auto table_of = batch.Of(table, 2), vector_of = batch.Of(vector, 2), out_of = batch.Of(*out, 2);
  const auto index_of = batch.Of(index, 2);
  ForEach(pool, batch.count() * lists, kLists, [&](int64_t list) {
    const int64_t entry = list / lists, b = list % lists;
    const float *from = table_of[entry], *v = vector_of[entry] + b * width;
    const int32_t* at = index_of[entry] + b * length;
    float* to = out_of[entry] + b * length;
    for (int64_t n = 0; n < length; ++n) {
      if (n + kAhead < length) Prefetch(from + Clamped(at[n + kAhead], rows) * width, width);
      const float* row = from + Clamped(at[n], rows) * width;
      float sum = 0;
      for (int64_t d = 0; d < width; ++d) sum += row[d] * v[d];
      to[n] = sum;
    }
  });
  return ffi::Error::Success();
}

// Writes the sum of weight[k] * table[index[k]], k < length, to `to`, both from feature `first` on, `width` of them, at most kTile.
inline void SumRows(const float* table, int64_t rows, int64_t stride, const int32_t* index, const float* weight, int64_t length,
                    int64_t first, int64_t width, float* to) {
  float sum[kTile] = {};
  for (int64_t k = 0; k < length; ++k) {
    if (k + kAhead < length) Prefetch(table + Clamped(index[k + kAhead], rows) * stride + first, width);
    const float* row = table + Clamped(index[k], rows) * stride + first;
    const float w = weight ? weight[k] : 1.0f;
    if (width == kTile) {
      for (int64_t d = 0; d < kTile; ++d) sum[d] += w * row[d];
    } else {
      for (int64_t d = 0; d < width; ++d) sum[d] += w * row[d];
    }
  }
  std::copy(sum, sum + width, to + first);
}

// out[b] = sum_n weight[b, n] table[index[b, n]]
ffi::Error RowSum(ffi::ThreadPool pool, Floats table, Floats weight, Ints index, Result out) {
  const int64_t rows = Axis(table, 2), width = Axis(table, 1), lists = Axis(*out, 2), length = Axis(index, 1);
  const Batch batch(*out, 2);
  const auto table_of = batch.Of(table, 2), weight_of = batch.Of(weight, 2), out_of = batch.Of(*out, 2);
  const auto index_of = batch.Of(index, 2);
  ForEach(pool, batch.count() * lists, kLists, [&](int64_t list) {
    const int64_t entry = list / lists, b = list % lists;
    const float *from = table_of[entry], *w = weight_of[entry] + b * length;
    const int32_t* at = index_of[entry] + b * length;
    float* to = out_of[entry] + b * width;
    for (int64_t d = 0; d < width; d += kTile) SumRows(from, rows, width, at, w, length, d, std::min(kTile, width - d), to);
  });
  return ffi::Error::Success();
}

// out[i] = sum over b, n with index[b, n] = i of weight[b, n] vector[b]. Sorted by row first, so that each row is summed in registers and
// written once, and no two threads add to one.
ffi::Error RowOuter(ffi::ThreadPool pool, Floats weight, Floats vector, Ints index, Result out) {
  const int64_t rows = Axis(*out, 2), width = Axis(*out, 1), lists = Axis(vector, 2), length = Axis(index, 1);
  const Batch batch(*out, 2);
  const auto weight_of = batch.Of(weight, 2), vector_of = batch.Of(vector, 2), out_of = batch.Of(*out, 2);
  const auto index_of = batch.Of(index, 2);
  std::vector<int64_t> start(rows + 1);
  std::vector<int32_t> list(lists * length);
  std::vector<float> weight_in_order(lists * length);
  for (int64_t entry = 0; entry < batch.count(); ++entry) {
    const float *w = weight_of[entry], *v = vector_of[entry];
    const int32_t* at = index_of[entry];
    float* to = out_of[entry];
    std::fill(start.begin(), start.end(), 0);
    for (int64_t k = 0; k < lists * length; ++k) ++start[Clamped(at[k], rows) + 1];
    for (int64_t i = 1; i < rows; ++i) start[i + 1] += start[i];
    // start[i] moves on to where row i ends, which is where row i + 1 begins.
    for (int64_t b = 0; b < lists; ++b) {
      for (int64_t k = b * length; k < (b + 1) * length; ++k) {
        const int64_t place = start[Clamped(at[k], rows)]++;
        list[place] = static_cast<int32_t>(b);
        weight_in_order[place] = w[k];
      }
    }
    ForEach(pool, rows, kRows, [&](int64_t i) {
      const int64_t begin = i ? start[i - 1] : 0, count = start[i] - begin;
      for (int64_t d = 0; d < width; d += kTile) {
        SumRows(v, lists, width, list.data() + begin, weight_in_order.data() + begin, count, d, std::min(kTile, width - d), to + i * width);
      }
    });
  }
  return ffi::Error::Success();
}

// out[m] = sum of table[sender[e]], e from start[m] to start[m + 1]
ffi::Error NeighbourSum(ffi::ThreadPool pool, Floats table, Ints start, Ints sender, Result out) {
  const int64_t rows = Axis(table, 2), width = Axis(table, 1), nodes = Axis(*out, 2), edges = Axis(sender, 1);
  const Batch batch(*out, 2);
  const auto table_of = batch.Of(table, 2), out_of = batch.Of(*out, 2);
  const auto start_of = batch.Of(start, 1), sender_of = batch.Of(sender, 1);
  ForEach(pool, batch.count() * nodes, kLists, [&](int64_t node) {
    const int64_t entry = node / nodes, m = node % nodes;
    const float* from = table_of[entry];
    const int32_t *begin = start_of[entry], *at = sender_of[entry];
    const int64_t low = std::min<int64_t>(std::max(begin[m], 0), edges);
    const int64_t high = std::max(low, std::min<int64_t>(begin[m + 1], edges));
    float* to = out_of[entry] + m * width;
    for (int64_t d = 0; d < width; d += kTile) {
      SumRows(from, rows, width, at + low, nullptr, high - low, d, std::min(kTile, width - d), to);
    }
  });
  return ffi::Error::Success();
}

// out[b, n] = how many of the sorted entries of b's row are at most rank[b, n]
ffi::Error RowCount(ffi::ThreadPool pool, Ints entry_F, Ints start, Ints count, Ints rank, IntResult out) {
  const int64_t entries = Axis(entry_F, 1), lists = Axis(*out, 2), length = Axis(*out, 1);
  const Batch batch(*out, 2);
  const auto entry_of = batch.Of(entry_F, 1), start_of = batch.Of(start, 2), count_of = batch.Of(count, 2);
  const auto rank_of = batch.Of(rank, 2), out_of = batch.Of(*out, 2);
  ForEach(pool, batch.count() * lists, kLists, [&](int64_t list) {
    const int64_t entry = list / lists, b = list % lists;
    const int64_t low = std::min<int64_t>(std::max(start_of[entry][b], 0), entries);
    const int64_t size = std::min<int64_t>(std::max(count_of[entry][b], 0), entries - low);
    const int32_t *row = entry_of[entry] + low, *from = rank_of[entry] + b * length;
    int32_t* __restrict to = out_of[entry] + b * length;
    std::fill_n(to, length, 0);
    for (int32_t left = size, half; left > 0; left -= half) {  // all lookups in a row halve it together
      half = (left + 1) / 2;
      METACSR_VECTORISE
      for (int64_t n = 0; n < length; ++n) to[n] += row[to[n] + half - 1] <= from[n] ? half : 0;
    }
  });
  return ffi::Error::Success();
}

}  // namespace

#define METACSR_ROWS(name, first, second, third)                                                                             \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_##name, name,                                                                        \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<first>().Arg<second>().Arg<third>().Ret<Floats>())

XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_RowCount, RowCount,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Ints>().Arg<Ints>().Arg<Ints>().Arg<Ints>().Ret<Ints>());
METACSR_ROWS(RowDot, Floats, Floats, Ints);
METACSR_ROWS(RowSum, Floats, Floats, Ints);
METACSR_ROWS(RowOuter, Floats, Floats, Ints);
METACSR_ROWS(NeighbourSum, Floats, Ints, Ints);

}  // namespace metacsr
